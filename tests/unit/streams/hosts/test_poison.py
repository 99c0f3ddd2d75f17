"""A report that the rules can not take: it is a dead letter, its host has to say all again, others do not notice."""

from typing import Any

import msgspec
import pytest

from schemas.codec import decode
from schemas.host_rows import HostRow
from schemas.ids import HostId, key_of
from schemas.observation import HostEvent
from schemas.report import HostReport
from streams.hosts import hearing
from streams.hosts.proof import Proof
from streams.hosts.rows import HOST_HEADER
from streams.hosts.undo import Undo
from streams.runtime.stage import WHOLE, Input
from tests.unit.streams.hosts.world import Agent, Said, World, host_at, inputs_of, tick_input, vm

POISON = vm(66)


class BrokenRule(RuntimeError):
    """What the rule raises."""


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A rule that raises half way, when a report names a certain VM."""
    original = Proof.agree

    def broken(self: Any, turn: Any, report: HostReport, ended: Any) -> bool:
        if POISON in turn.host.vms:
            raise BrokenRule("no rule for this")
        return original(self, turn, report, ended)

    monkeypatch.setattr(Proof, "agree", broken)
    return World()


def isolate(world: World, record: Input, *, condemned: tuple[bytes, ...] = (), limit: int = 1 << 20) -> Said:
    """Isolate this input and seal."""
    world.log.append(record)
    world.offset = record.offset + 1
    world.core.isolate(record, condemned, lambda topic, size: size <= limit, lambda names: None)
    return world.seal()


def picture(world: World) -> Any:
    """Everything that the next seal and the rules after it depend on."""
    return [
        (host_id, msgspec.msgpack.encode(host.row), dict(host.vms), dict(host.dirty_vms), host.due_tick, host.shown)
        for host_id, host in sorted(world.core.hosts.items())
    ] + [world.core.expected_tick, world.core.applied, world.core._watch._heap]


def test_the_report_is_put_aside_and_the_host_asked(world: World) -> None:
    agent, other = Agent(host_at(0)), Agent(host_at(1))
    world.started(agent)
    world.started(other)
    report = inputs_of(agent.change({POISON: {"run": b"r"}, vm(1): {"run": b"r"}}), offset=world.offset, at=world.now)
    with pytest.raises(BrokenRule):
        world.core.apply(report)
    world.reload()
    said = isolate(world, report)
    assert said.dead_reasons() == ["poison"]
    assert said.dead[0].value == report.value
    assert [request.reason for request in said.requests] == ["quarantine"]
    assert said.requests[0].force
    assert said.events == [HostEvent.UNCONFIRMED]
    assert {report.host_id for _, report in said.reports} == {agent.host_id}
    assert world.core.applied == report.offset
    assert world.hear(other.change({vm(2): {"run": b"r"}})).vms == {vm(2): ({"run": b"r"}, None)}


def test_its_forced_snapshot_heals_and_ends_the_care(world: World) -> None:
    agent = Agent(host_at(0))
    world.started(agent)
    report = agent.change({POISON: {"run": b"r"}, vm(1): {"run": b"r"}})
    (request,) = isolate(world, inputs_of(report, offset=world.offset, at=world.now)).requests
    del agent.vms[POISON]
    said = world.hear_all(agent.snapshot(force=True, answers=(request.request_id,)))
    assert HostEvent.CONFIRMED in said.events
    assert said.vms == {vm(1): ({"run": b"r"}, None)}
    assert world.core.suspects == set()


def test_what_keeps_raising_never_reaches_the_runtime_again(world: World) -> None:
    agent = Agent(host_at(0))
    world.started(agent)
    isolate(world, inputs_of(agent.change({POISON: {"run": b"r"}}), offset=world.offset, at=world.now))
    said = world.hear(agent.change({POISON: {"run": b"s"}}))
    assert said.dead_reasons() == ["poison"]


def test_nothing_is_left_of_what_was_tried(world: World) -> None:
    agent = Agent(host_at(0))
    world.started(agent)
    world.hear(agent.change({vm(1): {"run": b"r"}}))
    before = picture(world)
    undo = Undo(world.core, world.core.hosts.values())
    with pytest.raises(BrokenRule):
        world.core.take(inputs_of(agent.change({POISON: {"run": b"r"}}), offset=world.offset, at=world.now))
    undo.restore()
    assert picture(world) == before


def test_an_input_without_fault_is_applied_as_ever(world: World) -> None:
    twin = World()
    agent = Agent(host_at(0))
    for one in (world, twin):
        one.hear_all([msgspec.structs.replace(report) for report in Agent(host_at(0)).snapshot()])
    record = inputs_of(agent.change({vm(1): {"run": b"r"}}), offset=world.offset, at=world.now)
    isolate(world, record)
    twin.feed(record)
    assert world.loader_rows == twin.loader_rows


@pytest.mark.parametrize("condemned", [WHOLE, key_of(host_at(0))])
def test_what_ended_processes_is_not_tried_again(world: World, condemned: bytes) -> None:
    agent = Agent(host_at(0))
    world.started(agent)
    record = inputs_of(agent.change({vm(1): {"run": b"r"}}), offset=world.offset, at=world.now)
    said = isolate(world, record, condemned=(condemned,))
    assert said.dead_reasons() == ["crash"]
    assert said.vms == {}
    assert [request.reason for request in said.requests] == ["quarantine"]


def test_a_row_too_large_for_its_topic_is_never_sealed(world: World) -> None:
    agent = Agent(host_at(0))
    world.started(agent)
    large = agent.change(storage={f"domain-{number}": b"x" for number in range(200)})
    said = isolate(world, inputs_of(large, offset=world.offset, at=world.now), limit=6_000)
    assert said.dead_reasons() == ["too_large"]
    row = next(row for row in world.loader_rows[-1].rows if row.key == key_of(agent.host_id))
    assert decode(HostRow, row.value or b"", HOST_HEADER).marks == {}


def test_a_tick_judges_all_but_the_host_at_fault(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, right = Agent(host_at(0)), Agent(host_at(1))
    world.started(wrong)
    world.started(right)
    original = hearing.fall_silent

    def broken(turn: Any, *, mass: bool) -> None:
        original(turn, mass=mass)
        if turn.host.host_id == wrong.host_id:
            raise BrokenRule("never silent")

    monkeypatch.setattr(hearing, "fall_silent", broken)
    with pytest.raises(BrokenRule):
        world.tick(60)
    failed = world.log.pop()
    world.reload()
    said = isolate(world, failed)
    silent = {report.host_id for _, report in said.reports if HostEvent.SILENT in {one.event for one in report.host}}
    asked = {HostId(request.host_id) for request in said.requests}
    assert (silent, asked) == ({right.host_id}, {wrong.host_id})
    assert world.core.expected_tick == world.core._ticks.n + 1
    world.feed(tick_input(world.core.expected_tick, offset=world.offset, at=world.now + 10**9))


def test_care_for_one_host_leaves_unsealed_rows_of_others(world: World) -> None:
    suspect, other = Agent(host_at(0)), Agent(host_at(1))
    world.started(suspect)
    world.started(other)
    world.hear(other.change({vm(1): {"run": b"A"}}))
    isolate(world, inputs_of(suspect.change({POISON: {"run": b"r"}}), offset=world.offset, at=world.now))
    assert world.core.suspects == {key_of(suspect.host_id)}
    # One wave: the other says something, then the suspect something harmless, and only then it is sealed.
    del suspect.vms[POISON]
    wave = (other.change({vm(1): {"run": b"B"}}), suspect.heartbeat())
    for report in wave:
        world.core.apply(inputs_of(report, offset=world.offset, at=world.now))
        world.offset += 1
    world.seal()
    key = key_of(other.host_id) + b"/" + key_of(vm(1))
    assert key in {row.key for row in world.loader_rows[-1].rows}
    world.reload()
    assert world.hear(other.change({vm(1): {"run": b"A"}})).vms == {vm(1): ({"run": b"A"}, None)}


def test_a_late_row_of_a_former_owner_is_written_over() -> None:
    world, agent = World(), Agent(host_at(0))
    world.started(agent)
    world.hear(agent.change({vm(1): {"run": b"r"}}))
    key = key_of(agent.host_id) + b"/"
    for foreign in (key + key_of(vm(1)), key + key_of(vm(9)), key_of(agent.host_id), b"nonsense", b"#partition"):
        world.core.reassert(foreign)
    world.tick(1)
    rows = {row.key: row.value for row in world.loader_rows[-1].rows}
    assert rows[key + key_of(vm(1))] is not None
    assert rows[key + key_of(vm(9))] is None
    assert rows[key_of(agent.host_id)] is not None
