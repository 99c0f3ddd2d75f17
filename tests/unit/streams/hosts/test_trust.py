"""The trust boundary of host.reports: faults M5, M6, M7; INV-9 and INV-10."""

from typing import Any

import msgspec
import pytest

from schemas.codec import RecordError, encode, header_of
from schemas.ids import HostId, VmId, key_of
from schemas.report import Changes, Gone, HostReport, SnapshotPart, VmFacets
from schemas.status import GoneReason
from streams.hosts.trust import read_report
from streams.runtime.stage import Input
from tests.unit.streams.hosts.world import PARTITION, START_NS, Agent, World, host_at, inputs_of, vm

SNAPSHOT_ID = b"s" * 16


def part(**fields: Any) -> SnapshotPart:
    """A snapshot of one part with one VM."""
    whole: dict[str, Any] = {
        "snapshot_id": SNAPSHOT_ID,
        "part": 1,
        "parts": 1,
        "vms": [VmFacets(vm_id=vm(0), facets={})],
        "inventory": [vm(0)],
    }
    return SnapshotPart(**(whole | fields))


def raw(**fields: Any) -> Input:
    """A good report with some fields replaced, however wrong."""
    report = Agent(host_at(0)).heartbeat()
    values = {name: getattr(report, name) for name in report.__struct_fields__} | fields
    return Input(PARTITION, 0, START_NS, key_of(report.host_id), msgspec.msgpack.encode(values), header_of(HostReport))


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"host_id": b"short"}, "host_id"),
        ({"machine_id": b""}, "machine_id"),
        ({"agent_epoch": bytes(17)}, "agent_epoch"),
        ({"seq": 0}, "seq"),
        ({"seq": -1}, "seq"),
        ({"seq": 1 << 63}, "seq"),
        ({"observed_at": -1}, "observed_at"),
        ({"digest": -1}, "digest"),
        ({"vm_count": float("nan")}, "vm_count"),
        ({"body": None}, "body"),
        ({"body": Changes(vms=[VmFacets(vm_id=VmId(b"x"), facets={})])}, "body.vms"),
        ({"body": Changes(vms=[VmFacets(vm_id=vm(0), facets={})] * 2)}, "twice"),
        ({"body": Changes(gone=[Gone(vm_id=VmId(b""), reason=GoneReason.ABSENT)])}, "body.gone"),
        ({"body": part(part=0)}, "body.part"),
        ({"body": part(parts=1 << 40)}, "body.part"),
        ({"body": part(snapshot_id=b"")}, "body.snapshot_id"),
        ({"body": part(inventory=None)}, "body.inventory"),
        ({"body": part(parts=2)}, "body.inventory"),
        ({"body": part(inventory=[vm(0), vm(0)])}, "twice"),
        ({"body": part(inventory=[vm(1)])}, "lacks"),
    ],
)
def test_bad_field_is_named(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(RecordError, match=path):
        read_report(raw(**fields))


@pytest.mark.parametrize("value", [b"", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\x91" * 5000, bytes(2_000_000)])
def test_bytes_that_are_no_record_become_a_dead_letter_and_the_line_goes_on(value: bytes) -> None:
    world, agent = World(), Agent(host_at(0))
    world.started(agent)

    said = world.feed(Input(PARTITION, world.offset, world.now, key_of(agent.host_id), value, header_of(HostReport)))

    assert said.dead_reasons() == ["malformed"]
    headers = dict(said.dead[0].headers)
    assert headers["dlq.topic"] == b"host.reports"
    assert headers["dlq.offset"] == str(world.offset - 1).encode()
    assert (headers["dlq.partition"], headers["dlq.stage"]) == (b"1", b"hosts")
    assert said.dead[0].value == value
    assert world.counted["dead_letters_records", ("malformed",)] == 1
    assert world.hear(agent.change({vm(1): {"run": b"r"}})).vms == {vm(1): ({"run": b"r"}, None)}


@pytest.mark.parametrize("schema", [None, b"", b"HostIntent/1.0", b"nonsense"])
def test_other_records_are_dead_lettered(schema: bytes | None) -> None:
    world, agent = World(), Agent(host_at(0))

    said = world.feed(inputs_of(agent.heartbeat(), offset=0, at=world.now)._replace(schema=schema))

    assert said.dead_reasons() == ["malformed"]


def test_m6_newer_major_of_an_agent_is_put_aside_and_asked_for_again() -> None:
    world, agent = World(), Agent(host_at(0))
    world.started(agent)
    newer = inputs_of(agent.change({vm(1): {"run": b"r"}}), offset=world.offset, at=world.now)
    said = world.feed(newer._replace(schema=b"HostReport/2.0"))
    assert said.dead_reasons() == ["newer_major"]
    assert world.hear(agent.heartbeat()).requests[0].reason == "sequence_gap"


def test_m6_unknown_optional_field_is_ignored() -> None:
    assert read_report(raw(later="x")).seq == 1


def test_m7_key_of_another_host_is_refused() -> None:
    world = World()
    mine, other = Agent(host_at(0)), Agent(host_at(1))
    world.started(mine)
    world.started(other)
    forged = inputs_of(mine.change({vm(0): {"run": b"r"}}), offset=world.offset, at=world.now)

    said = world.feed(forged._replace(key=key_of(other.host_id)))

    assert said.dead_reasons() == ["malformed"]
    assert said.reports == []


def test_host_in_a_partition_that_is_not_its_own_is_refused() -> None:
    world = World()
    stranger = Agent(host_at(0, partition=0))

    said = world.hear(stranger.heartbeat())

    assert said.dead_reasons() == ["malformed"]
    assert world.core.hosts == {}


def test_record_without_key_is_refused() -> None:
    world = World()

    said = world.feed(inputs_of(Agent(host_at(0)).heartbeat(), offset=0, at=world.now)._replace(key=None))

    assert said.dead_reasons() == ["malformed"]


def test_report_is_read_as_it_was_written() -> None:
    report = Agent(HostId(bytes(range(16)))).heartbeat()

    assert read_report(Input(0, 0, 0, None, encode(report), header_of(HostReport))) == report


UNUSABLE: dict[str, dict[str, Any]] = {
    "random bytes": {"value": b"\xc1\xc1\xc1"},
    "empty": {"value": b""},
    "truncated": {"cut": 20},
    "deeply nested": {"value": b"\x91" * 5_000},
    "huge map": {"value": b"\xdf\xff\xff\xff\xff"},
    "oversized": {"value": bytes(2_000_000)},
    "of another host": {"key": key_of(host_at(7))},
    "without a key": {"key": None},
    "of a newer major": {"schema": b"HostReport/2.0"},
    "of another record": {"schema": b"Tick/1.0"},
    "without a schema": {"schema": None},
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_an_unusable_report_said_is_asked_for_by_the_next_heartbeat_and_heals(kind: str) -> None:
    world, agent, other = World(), Agent(host_at(0)), Agent(host_at(1))
    world.started(agent)
    world.started(other)
    good = inputs_of(agent.change({vm(1): {"run": b"r"}}), offset=world.offset, at=world.now)
    spoilt = {"value": good.value, **UNUSABLE[kind]}
    if cut := spoilt.pop("cut", None):
        spoilt["value"] = good.value[:cut]
    said = world.feed(good._replace(**spoilt))
    assert len(said.dead) == 1
    assert world.counted["dead_letters_records", (said.dead_reasons()[0],)] == 1
    assert (said.events, said.vms, said.changes) == ([], {}, [])
    said = world.hear(agent.heartbeat())
    (request,) = said.requests
    assert request.host_id == agent.host_id
    healed = world.hear_all(agent.snapshot(answers=(request.request_id,)))
    assert healed.vms == {vm(1): ({"run": b"r"}, None)}
    assert world.hear(agent.heartbeat()).requests == []
    assert world.hear(other.heartbeat()).requests == []
