"""A clean line is silent; every class of damage is found, named and placed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from tests.unit.verifier.sink import fill
from tests.unit.verifier.world import START_NS, World, home_of, raw_id, text_id
from tests.verifier.findings import Finding, Kind, Report
from tests.verifier.logs import Message
from tests.verifier.settings import Settings
from tests.verifier.verify import verify_logs

UP = {"status": "up", "process_id": "1"}
VMS = [f"vm{number}" for number in range(6)]


def history() -> World:
    """Three hosts, six VMs: changes, a repeat-free life, a migration, a removal and a rebirth, silence, poison."""
    world = World()
    for number, host in enumerate(("alpha", "beta", "gamma")):
        mine = VMS[2 * number : 2 * number + 2]
        world.snapshot(host, {vm: {"identity": {"name": vm}, "run": UP} for vm in mine})
    world.say("alpha", "vm0", guest={"agent_connected": True, "fqdn": "one"})
    world.heartbeat("alpha")
    world.say("beta", "vm2", guest={"agent_connected": True, "fqdn": "two"})
    world.say("alpha", "vm0", guest={"agent_connected": True, "fqdn": "three"})
    world.poison("beta", b"\xc1 nobody can read this")
    world.say("alpha", "vm0", identity={"name": "vm0 renamed"})
    world.say("alpha", "vm1", run={"status": "migrating_from", "process_id": "1"})
    world.migrate("alpha", "beta", "vm1", UP)
    world.say("gamma", "vm4", run={"status": "down", "exit_status": "normal"})
    world.undefine("gamma", "vm4")
    world.say("gamma", "vm4", identity={"name": "vm4 again"}, run=UP)
    world.fall_silent("beta")
    world.say("alpha", "vm0", run={"status": "paused", "process_id": "1"})
    fill(world)
    return world


@pytest.fixture
def world() -> World:
    return history()


def verdict(world: World, **more: Any) -> Report:
    settings = {"injected_letters": 1, "grace_ticks": 20} | more
    return verify_logs(world.logs, world.database, Settings(kafka="-", **settings))


def only(report: Report, kind: Kind, **wanted: Any) -> Finding:
    """The finding of this kind at this place; fails with the whole report when there is none."""
    for finding in report.findings:
        if finding.kind is kind and all(getattr(finding, name) == value for name, value in wanted.items()):
            return finding
    raise AssertionError(f"no {kind} at {wanted} in:\n{report.text()}")


def log_of(world: World, topic: str, name: str) -> list[Message]:
    return world.logs.topics[topic][home_of(name)]


def change_at(world: World, vm: str, version: int) -> int:
    """Offset of a version in vm.changes, first incarnation."""
    log = log_of(world, "vm.changes", vm)
    return next(
        message.offset
        for message in log
        if (value := msgpack.unpackb(message.value))["vm_id"] == text_id(vm) and value["version"] == version
    )


def altered(message: Message, alter: Callable[[dict[str, Any]], None]) -> Message:
    value = msgpack.unpackb(message.value)
    alter(value)
    return message._replace(value=msgpack.packb(value))


def test_a_clean_line_is_silent(world: World) -> None:
    report = verdict(world)
    assert report.silent, report.text()
    assert report.looked_at["changes explained"] == len(world.history) > 12
    assert report.looked_at["observations compared"] > 12
    assert report.looked_at["rows of vm_change"] == len(world.history)
    assert report.notes == []


def test_two_hosts_may_fall_silent_at_one_tick() -> None:
    world = World()
    hosts = [host for host in (f"host{number}" for number in range(20)) if home_of(host) == 0][:3]
    for host in hosts:
        world.snapshot(host, {f"{vm} of {host}": {"identity": {"name": vm}, "run": UP} for vm in VMS[:3]})
    world.fall_silent(*hosts)
    fill(world)
    report = verdict(world, injected_letters=0)
    assert report.silent, report.text()
    assert report.looked_at["changes explained"] == 18


@pytest.mark.parametrize("passed", ["changed", "whole"])
def test_a_snapshot_passes_what_changed_or_all_of_it(passed: str) -> None:
    """The gate holds back what is equal; a stage that lost its marks can not, and tells no lie."""
    world = World()
    before = {"identity": {"name": "vm0"}, "run": UP}
    world.snapshot("alpha", {"vm0": before})
    after = {**before, "identity": {"name": "renamed"}}
    body = {
        "kind": "snapshot", "snapshot_id": raw_id("second"), "part": 1, "parts": 1, "inventory": [raw_id("vm0")],
        "vms": [{"vm_id": raw_id("vm0"), "facets": {name: msgpack.packb(value) for name, value in after.items()}}],
    }  # fmt: skip
    offset = world._report("alpha", body)
    said = after if passed == "whole" else {"identity": after["identity"]}
    world._observe("alpha", offset, {"vm0": said}, inventory=[raw_id("vm0")])
    world._take("alpha", offset, "vm0", after)
    fill(world)
    report = verdict(world, injected_letters=0)
    assert report.silent, report.text()
    log = log_of(world, "vm.observations", "vm0")
    batch = msgpack.unpackb(log[-1].value)
    batch[5][0][7][0][1] = {"run": msgpack.packb(UP)}  # all but what changed
    log[-1] = log[-1]._replace(value=msgpack.packb(batch))
    only(verdict(world, injected_letters=0), Kind.DIFFERING, topic="vm.observations", vm=text_id("vm0"))


def test_repeats_with_the_same_bytes_are_allowed(world: World) -> None:
    for topic in ("vm.changes", "vm.observations", "vm.state"):
        for partition, log in enumerate(world.logs.topics[topic]):
            world.logs.rewrite(topic, partition, [*log, *log[-2:]] if topic != "vm.state" else log)
    fill(world)
    report = verdict(world)
    assert report.silent, report.text()
    assert report.looked_at["repeats in vm.changes"] == 4


def test_a_lost_change_is_a_hole_and_named_by_its_report(world: World) -> None:
    log = log_of(world, "vm.changes", "vm0")
    lost = msgpack.unpackb(log[change_at(world, "vm0", 3)].value)
    del log[change_at(world, "vm0", 3)]
    world.logs.rewrite("vm.changes", home_of("vm0"), log)
    fill(world)
    report = verdict(world)
    only(report, Kind.HOLE, vm=text_id("vm0"), version=3)
    at = lost["evidence"]
    only(report, Kind.LOST, vm=text_id("vm0"), partition=at["partition"], offset=at["offset"], topic="host.reports")


def test_a_lost_last_change_is_found_though_no_hole_shows_it(world: World) -> None:
    log = log_of(world, "vm.changes", "vm0")
    last = max(change_at(world, "vm0", version) for version in (4, 5))
    at = msgpack.unpackb(log[last].value)["evidence"]
    del log[last]
    world.logs.rewrite("vm.changes", home_of("vm0"), log)
    report = verdict(world)
    only(report, Kind.LOST, vm=text_id("vm0"), partition=at["partition"], offset=at["offset"])
    only(report, Kind.FOREIGN, vm=text_id("vm0"), version=5)  # its row in vm_change, and the head


def test_a_lost_creation_is_found(world: World) -> None:
    for topic, key in (("vm.changes", text_id("vm3")), ("vm.state", text_id("vm3"))):
        log = [one for one in log_of(world, topic, "vm3") if not (one.key or b"").startswith(key.encode())]
        world.logs.rewrite(topic, home_of("vm3"), log)
    only(verdict(world), Kind.LOST, vm=text_id("vm3"), host=text_id("beta"))


def test_a_lost_observation_is_found_before_the_change_that_lacks(world: World) -> None:
    log = log_of(world, "vm.observations", "vm0")
    at = msgpack.unpackb(log[-1].value)[5][0][0]
    world.logs.rewrite("vm.observations", home_of("vm0"), log[:-1])
    finding = only(verdict(world), Kind.LOST, vm=text_id("vm0"), offset=at)
    assert "not in vm.observations" in finding.what


def test_an_altered_observation_is_found(world: World) -> None:
    log = log_of(world, "vm.observations", "vm0")
    batch = msgpack.unpackb(log[-1].value)
    batch[5][0][7][0][1]["run"] = msgpack.packb({"status": "up", "process_id": "2"})
    log[-1] = log[-1]._replace(value=msgpack.packb(batch))
    only(verdict(world), Kind.DIFFERING, topic="vm.observations", vm=text_id("vm0"), offset=log[-1].offset)


def test_an_invented_observation_is_found(world: World) -> None:
    log = log_of(world, "vm.observations", "vm0")
    batch = msgpack.unpackb(log[-1].value)
    batch[5][0][7].append([raw_id("vm5"), {"run": msgpack.packb(UP)}, None])
    log[-1] = log[-1]._replace(value=msgpack.packb(batch))
    only(verdict(world), Kind.FOREIGN, topic="vm.observations", vm=text_id("vm5"))


def test_a_duplicated_row_is_found(world: World) -> None:
    rows = world.database.tables["vm_change"]
    rows.append(rows[3])
    only(verdict(world), Kind.DUPLICATED, vm=rows[3]["vm_id"], version=rows[3]["version"])


def test_a_missing_row_breaks_the_promise_of_the_position(world: World) -> None:
    gone = world.database.tables["vm_change"].pop(5)
    finding = only(verdict(world), Kind.LOST, vm=gone["vm_id"], version=gone["version"])
    assert "I4" in finding.invariant


def test_an_altered_row_is_found(world: World) -> None:
    row = world.database.tables["vm_change"][4]
    row["facets"] = {**row["facets"], "identity": {"before": None, "after": {"name": "other"}, "changed": ["name"]}}
    only(verdict(world), Kind.DIFFERING, vm=row["vm_id"], version=row["version"])


def test_a_change_published_as_two_versions_is_found(world: World) -> None:
    """As when the table was lost between the change and the row, and the report was applied again."""
    life = world.vms["vm0"]
    offset = msgpack.unpackb(log_of(world, "vm.changes", "vm0")[-1].value)["evidence"]["offset"]
    world._publish("alpha", offset, life, "reported")
    fill(world)
    report = verdict(world)
    only(report, Kind.DUPLICATED, vm=text_id("vm0"), version=6, invariant="I3")


def test_swapped_changes_are_found(world: World) -> None:
    log = log_of(world, "vm.changes", "vm0")
    one, two = change_at(world, "vm0", 2), change_at(world, "vm0", 3)
    log[one], log[two] = log[two], log[one]
    world.logs.rewrite("vm.changes", home_of("vm0"), log)
    report = verdict(world)
    only(report, Kind.OUT_OF_ORDER, vm=text_id("vm0"), version=2)
    assert Kind.HOLE not in report.counts


def test_an_altered_facet_is_found(world: World) -> None:
    log = log_of(world, "vm.changes", "vm0")
    offset = change_at(world, "vm0", 2)

    def alter(value: dict[str, Any]) -> None:
        value["facets"]["guest"]["after"]["fqdn"] = "another"

    log[offset] = altered(log[offset], alter)
    finding = only(verdict(world), Kind.DIFFERING, topic="vm.changes", vm=text_id("vm0"), version=2)
    assert "guest" in finding.what


@pytest.mark.parametrize("field", ["previous_digest", "state_digest"])
def test_a_broken_chain_is_found(world: World, field: str) -> None:
    log = log_of(world, "vm.changes", "vm0")
    offset = change_at(world, "vm0", 3)
    log[offset] = altered(log[offset], lambda value: value.__setitem__(field, 7))
    version = 3 if field == "previous_digest" else 4
    only(verdict(world), Kind.BROKEN_CHAIN, vm=text_id("vm0"), version=version)


def test_a_repeat_with_other_bytes_is_found(world: World) -> None:
    log = log_of(world, "vm.changes", "vm0")
    again = altered(log[-1], lambda value: value.__setitem__("observed_at", START_NS))
    world.logs.rewrite("vm.changes", home_of("vm0"), [*log, again])
    fill(world)
    only(verdict(world), Kind.DIFFERING, invariant="I11", offset=len(log))


@pytest.mark.parametrize("change", [{}, {"novelty": "of a newer minor"}, {"observed_at": START_NS}])
def test_a_repeat_by_other_rules_says_the_same(world: World, change: dict[str, object]) -> None:
    log = log_of(world, "vm.changes", "vm0")
    again = altered(log[-1], lambda value: value.update(change, rules_version=2))
    world.logs.rewrite("vm.changes", home_of("vm0"), [*log, again])
    fill(world)
    report = verdict(world)
    assert report.looked_at["repeats in vm.changes by other rules"] == 1
    if "observed_at" in change:
        only(report, Kind.DIFFERING, invariant="I11", offset=len(log))
    else:
        assert report.silent, report.text()


def test_falling_detected_at_and_foreign_evidence_are_found(world: World) -> None:
    log = log_of(world, "vm.changes", "vm0")
    offset = change_at(world, "vm0", 3)
    log[offset] = altered(log[offset], lambda value: value.__setitem__("detected_at", START_NS))
    only(verdict(world), Kind.OUT_OF_ORDER, vm=text_id("vm0"), version=3)
    log[offset] = altered(log[offset], lambda value: value["evidence"].__setitem__("offset", 10_000))
    only(verdict(world), Kind.LOST, vm=text_id("vm0"))


def test_evidence_of_another_report_is_found(world: World) -> None:
    log = log_of(world, "vm.changes", "vm0")
    offset = change_at(world, "vm0", 3)
    log[offset] = altered(log[offset], lambda value: value["evidence"].__setitem__("seq", 99))
    only(verdict(world), Kind.DIFFERING, vm=text_id("vm0"), version=3)


def test_a_change_that_nothing_explains_is_foreign(world: World) -> None:
    life = world.vms["vm3"]
    life.claims["beta"] = {**life.claims["beta"], "run": {"status": "paused", "process_id": "1"}}
    world._publish("beta", 10_000, life, "reported")
    fill(world)
    finding = only(verdict(world), Kind.FOREIGN, topic="vm.changes", vm=text_id("vm3"))
    assert "10000" in finding.what


def test_a_vm_that_does_not_show_its_silent_host_is_lost(world: World) -> None:
    log = log_of(world, "vm.changes", "vm3")
    silent = [one.offset for one in log if b"host_silent" in (one.value or b"") and one.key == text_id("vm3").encode()]
    assert len(silent) == 1
    del log[silent[0]]
    world.logs.rewrite("vm.changes", home_of("vm3"), log)
    finding = only(verdict(world), Kind.LOST, vm=text_id("vm3"), topic="host.reports")
    assert "host_silent" in finding.what


def test_silence_before_its_time_is_found(world: World) -> None:
    only(verdict(world, grace_ticks=26), Kind.FOREIGN, invariant="I7", host=text_id("beta"))


def test_silence_that_ends_a_run_is_found(world: World) -> None:
    log = log_of(world, "vm.changes", "vm3")
    offset = next(
        one.offset for one in log if b"host_silent" in (one.value or b"") and one.key == text_id("vm3").encode()
    )
    log[offset] = altered(log[offset], lambda value: value.__setitem__("status", "down"))
    only(verdict(world), Kind.DIFFERING, invariant="I7", vm=text_id("vm3"))


def test_an_owner_who_never_had_the_vm_is_found(world: World) -> None:
    log = log_of(world, "vm.changes", "vm0")
    offset = change_at(world, "vm0", 3)

    def alter(value: dict[str, Any]) -> None:
        value["host_id"], value["ownership_epoch"] = text_id("gamma"), 2

    log[offset] = altered(log[offset], alter)
    only(verdict(world), Kind.FOREIGN, vm=text_id("vm0"), version=3)
    log[offset] = altered(log[offset], lambda value: value.__setitem__("ownership_epoch", 1))
    only(verdict(world), Kind.DIFFERING, vm=text_id("vm0"), version=3)


def test_a_lost_host_change_is_found(world: World) -> None:
    log = log_of(world, "host.changes", "gamma")
    lost = next(one.offset for one in log if one.key == text_id("gamma").encode())
    del log[lost]
    world.logs.rewrite("host.changes", home_of("gamma"), log)
    only(verdict(world), Kind.LOST, host=text_id("gamma"), topic="host.reports")
