"""Damage to the state topics, the tables, the position and the dead letters is found, named and placed."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from tests.unit.verifier.sink import fill
from tests.unit.verifier.test_verdicts import altered, history, log_of, only, verdict
from tests.unit.verifier.world import World, home_of, text_id
from tests.verifier.findings import Kind
from tests.verifier.logs import Message


@pytest.fixture
def world() -> World:
    return history()


def heads(world: World, vm: str) -> list[Message]:
    return [one for one in log_of(world, "vm.state", vm) if one.key == text_id(vm).encode()]


def append_state(world: World, vm: str, message: Message) -> None:
    log = log_of(world, "vm.state", vm)
    world.logs.rewrite("vm.state", home_of(vm), [*log, message])


def test_a_head_that_went_back_is_found(world: World) -> None:
    append_state(world, "vm0", heads(world, "vm0")[1])
    only(verdict(world), Kind.WENT_BACK, vm=text_id("vm0"), version=2)


def test_a_stale_head_is_found(world: World) -> None:
    last = heads(world, "vm0")[-1]
    log = [one for one in log_of(world, "vm.state", "vm0") if one.offset != last.offset]
    world.logs.rewrite("vm.state", home_of("vm0"), log)
    only(verdict(world), Kind.STALE, topic="vm.state", vm=text_id("vm0"), version=4)


def test_a_missing_head_is_found(world: World) -> None:
    log = [one for one in log_of(world, "vm.state", "vm0") if not (one.key or b"").startswith(text_id("vm0").encode())]
    world.logs.rewrite("vm.state", home_of("vm0"), log)
    only(verdict(world), Kind.LOST, topic="vm.state", vm=text_id("vm0"))


def test_an_altered_head_is_found(world: World) -> None:
    append_state(world, "vm0", altered(heads(world, "vm0")[-1], lambda head: head.__setitem__("digest", 1)))
    only(verdict(world), Kind.DIFFERING, topic="vm.state", vm=text_id("vm0"))


def test_a_head_of_an_unknown_vm_is_foreign(world: World) -> None:
    head = altered(heads(world, "vm0")[-1], lambda head: head.__setitem__("vm_id", text_id("nobody")))
    append_state(world, "vm0", head._replace(key=text_id("nobody").encode()))
    only(verdict(world), Kind.FOREIGN, topic="vm.state", vm=text_id("nobody"))


def row_of(world: World, vm: str, host: str, facet: str) -> Message:
    key = f"{text_id(vm)}/{text_id(host)}/{facet}".encode()
    return [one for one in log_of(world, "vm.state", vm) if one.key == key and one.value is not None][-1]


def test_a_late_facet_row_of_a_dead_writer_is_found(world: World) -> None:
    late = altered(row_of(world, "vm0", "alpha", "guest"), lambda row: row.__setitem__("version", 77))
    append_state(world, "vm0", late)
    finding = only(verdict(world), Kind.FOREIGN, topic="vm.state", vm=text_id("vm0"))
    assert "above its head" in finding.what


def test_an_old_facet_row_over_a_newer_one_is_found(world: World) -> None:
    key = f"{text_id('vm0')}/{text_id('alpha')}/guest".encode()
    first = next(one for one in log_of(world, "vm.state", "vm0") if one.key == key)
    append_state(world, "vm0", first)
    only(verdict(world), Kind.STALE, topic="vm.state", vm=text_id("vm0"))


def test_facet_bytes_that_are_not_their_fingerprint_are_found(world: World) -> None:
    row = row_of(world, "vm0", "alpha", "guest")
    wrong = altered(row, lambda one: one.__setitem__("value", msgpack.packb({"fqdn": "forged"})))
    append_state(world, "vm0", wrong)
    only(verdict(world), Kind.DIFFERING, topic="vm.state", vm=text_id("vm0"))


def test_a_missing_tombstone_is_found(world: World) -> None:
    log = log_of(world, "vm.state", "vm1")
    key = f"{text_id('vm1')}/{text_id('alpha')}/".encode()
    kept = [one for one in log if not ((one.key or b"").startswith(key) and one.value is None)]
    assert len(kept) < len(log)
    world.logs.rewrite("vm.state", home_of("vm1"), kept)
    only(verdict(world), Kind.NOT_DELETED, topic="vm.state", vm=text_id("vm1"))


def test_a_tombstone_of_a_living_vm_is_found(world: World) -> None:
    append_state(world, "vm0", heads(world, "vm0")[-1]._replace(value=None))
    only(verdict(world), Kind.WRONGLY_DELETED, topic="vm.state", vm=text_id("vm0"))


def test_a_lost_facet_row_is_found(world: World) -> None:
    append_state(world, "vm0", row_of(world, "vm0", "alpha", "guest")._replace(value=None))
    only(verdict(world), Kind.LOST, topic="vm.state", vm=text_id("vm0"))


def test_a_stale_host_state_is_found(world: World) -> None:
    log = log_of(world, "host.state", "beta")
    mine = [one for one in log if one.key == text_id("beta").encode()]
    world.logs.rewrite("host.state", home_of("beta"), [one for one in log if one.offset != mine[-1].offset])
    only(verdict(world), Kind.STALE, topic="host.state", host=text_id("beta"))
    world.logs.rewrite("host.state", home_of("beta"), [*log, mine[0]])
    only(verdict(world), Kind.WENT_BACK, topic="host.state", host=text_id("beta"))


# Tables.


def row_in(world: World, table: str, vm: str) -> dict[str, Any]:
    return next(row for row in world.database.tables[table] if row["vm_id"] == text_id(vm))


def test_a_row_that_went_back_is_found(world: World) -> None:
    row_in(world, "vm", "vm0")["version"] = 2
    finding = only(verdict(world), Kind.STALE, vm=text_id("vm0"), version=2)
    assert "I6" in finding.invariant


def test_a_missing_and_an_invented_row_are_found(world: World) -> None:
    world.database.tables["vm"].remove(row_in(world, "vm", "vm0"))
    world.database.tables["vm"].append({**row_in(world, "vm", "vm2"), "vm_id": text_id("nobody")})
    report = verdict(world)
    only(report, Kind.LOST, vm=text_id("vm0"))
    only(report, Kind.FOREIGN, vm=text_id("nobody"))


@pytest.mark.parametrize("column", ["status", "host_id", "digest", "availability_reasons", "run_process_id"])
def test_an_altered_current_row_is_found(world: World, column: str) -> None:
    row_in(world, "vm", "vm0")[column] = ["x"] if column == "availability_reasons" else 1 if column == "digest" else "x"
    finding = only(verdict(world), Kind.DIFFERING, vm=text_id("vm0"))
    assert column.split("_")[0] in finding.what


def test_an_altered_facet_row_and_its_time_are_found(world: World) -> None:
    row_in(world, "vm_guest", "vm0")["fqdn"] = "x"
    row_in(world, "vm_identity", "vm0")["changed_at"] += 1
    report = verdict(world)
    assert report.counts[Kind.DIFFERING] == 2
    only(report, Kind.DIFFERING, vm=text_id("vm0"))


def test_a_facet_row_too_many_and_one_too_few_are_found(world: World) -> None:
    rows = world.database.tables["vm_guest"]
    rows.append({**row_in(world, "vm_guest", "vm0"), "vm_id": text_id("vm5")})
    rows.remove(row_in(world, "vm_guest", "vm2"))
    report = verdict(world)
    only(report, Kind.NOT_DELETED, vm=text_id("vm5"))
    only(report, Kind.LOST, vm=text_id("vm2"))


def test_a_wrong_host_row_is_found(world: World) -> None:
    next(row for row in world.database.tables["host"] if row["host_id"] == text_id("beta"))["reachability"] = "up"
    only(verdict(world), Kind.DIFFERING, host=text_id("beta"))


@pytest.mark.parametrize("step", [-1, 1])
def test_a_wrong_position_is_found(world: World, step: int) -> None:
    part = home_of("vm0")
    row = next(
        row for row in world.database.tables["sink_position"] if (row["topic"], row["part"]) == ("vm.changes", part)
    )
    row["next_offset"] += step
    report = verdict(world)
    only(report, Kind.POSITION, topic="vm.changes", partition=part, offset=row["next_offset"])
    if step < 0:  # the row of the last change is there, though the position says that it was not read
        only(report, Kind.POSITION, topic="vm.changes", partition=part, vm=text_id("vm0"))


def test_a_sink_that_is_behind_is_no_finding_while_the_line_runs(world: World) -> None:
    part = home_of("vm0")
    row = next(
        row for row in world.database.tables["sink_position"] if (row["topic"], row["part"]) == ("vm.changes", part)
    )
    row["next_offset"] -= 1
    last = msgpack.unpackb(world.logs.topics["vm.changes"][part][-1].value)
    kept = [
        row
        for row in world.database.tables["vm_change"]
        if (row["vm_id"], row["incarnation"], row["version"]) != (last["vm_id"], last["incarnation"], last["version"])
    ]
    world.database.tables["vm_change"] = kept
    report = verdict(world, quiet=False)
    assert report.silent, report.text()
    assert not verdict(world).silent


def test_wrong_fleet_counters_are_found(world: World) -> None:
    world.database.tables["fleet_count"][0]["n"] += 1
    finding = only(verdict(world), Kind.DIFFERING, vm=None)
    assert "fleet_count" in finding.what


# Dead letters and figures.


def test_another_number_of_dead_letters_is_found(world: World) -> None:
    only(verdict(world, injected_letters=2), Kind.DEAD_LETTERS, topic="dead.letters")


def test_poison_that_was_not_put_aside_is_found(world: World) -> None:
    offset = world.poison("gamma", b"\x01")
    world.logs.topics["dead.letters"][home_of("gamma")].pop()
    only(verdict(world), Kind.LOST, invariant="I9", topic="host.reports", offset=offset)


def test_a_sound_record_that_was_put_aside_is_found(world: World) -> None:
    world.logs.append(
        "dead.letters", 0, text_id("alpha"), b"", dlq_topic="host.reports", dlq_partition=str(home_of("alpha")),
        dlq_offset="0", dlq_stage="hosts", dlq_reason="malformed", dlq_error="?",
    )  # fmt: skip
    only(verdict(world), Kind.FOREIGN, invariant="I9", offset=0)


def test_a_figure_above_its_bound_is_found(world: World) -> None:
    assert verdict(world, figures={"rss_mib": 100.0}, bounds={"rss_mib": 200.0}).silent
    only(verdict(world, figures={"rss_mib": 300.0}, bounds={"rss_mib": 200.0}), Kind.ABOVE_BOUND)
    assert verdict(world, bounds={"rss_mib": 200.0}).notes


def test_retention_limits_the_verdict_and_says_so(world: World) -> None:
    class Shorter(type(world.logs)):  # type: ignore[misc]
        pass

    fill(world)
    ends = world.logs.ends()
    ends["host.reports"][0] = ends["host.reports"][0]._replace(low=1)
    world.logs.ends = lambda: ends  # type: ignore[method-assign]
    assert verdict(world).notes
