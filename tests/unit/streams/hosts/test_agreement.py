"""Agreement and resync: design §4.4; fault M4, invariant I2."""

from itertools import pairwise

import pytest

from schemas.change import Cause
from schemas.observation import HostEvent
from schemas.report import Farewell
from streams.hosts.policy import HostsPolicy
from streams.runtime.stage import Batch
from tests.unit.streams.hosts.world import Agent, Said, World, host_at, vm


@pytest.fixture
def agent() -> Agent:
    agent = Agent(host_at(0))
    agent.vms = {vm(index): {"run": b"r"} for index in range(3)}
    return agent


@pytest.fixture
def world(agent: Agent) -> World:
    world = World()
    world.started(agent)
    return world


def asked(said: Said) -> list[str]:
    """Reasons of the requests."""
    return [request.reason for request in said.requests]


@pytest.mark.parametrize("lost", [{vm(0): {"run": b"x"}}, {vm(7): {}}])
def test_difference_of_digest_or_count_asks_for_a_snapshot(world: World, agent: Agent, lost: dict[str, object]) -> None:
    agent.vms.update(lost)  # type: ignore[arg-type]

    said = world.hear(agent.heartbeat())

    assert asked(said) == ["digest"]
    assert not said.requests[0].force
    assert said.changes == []
    assert world.counted["digest_mismatches", ()] == 1


def test_snapshot_that_answers_restores_agreement(world: World, agent: Agent) -> None:
    agent.vms[vm(0)] = {"run": b"unsaid"}
    (request,) = world.hear(agent.heartbeat()).requests

    said = world.hear_all(agent.snapshot(answers=(request.request_id,)))

    assert said.vms == {vm(0): ({"run": b"unsaid"}, None)}
    assert world.core.hosts[agent.host_id].row.resync is None
    assert world.tick(100, beat=(agent,)).requests == []


def test_asks_again_with_back_off_until_the_snapshot_ends(world: World, agent: Agent) -> None:
    agent.vms[vm(0)] = {"run": b"unsaid"}
    ticks = []
    request_ids = set()
    for tick in range(800):
        said = world.tick(1)
        for request in said.requests + world.hear(agent.heartbeat()).requests:
            ticks.append(tick)
            request_ids.add(request.request_id)

    waits = [later - earlier for earlier, later in pairwise(ticks)]
    assert len(request_ids) == len(ticks), "an agent answers an id once"
    assert waits == sorted(waits)
    for wait, base in zip(waits, (10, 20, 40, 80, 160, 320), strict=False):
        assert base <= wait <= base * 5 // 4 + 1
    assert len(waits) >= 5


def test_back_off_ends_at_ten_minutes() -> None:
    policy = HostsPolicy()
    world, agent = World(policy), Agent(host_at(0))
    world.started(agent)
    row = world.core.hosts[agent.host_id].row
    row.asked = 30
    agent.vms[vm(0)] = {}
    world.hear(agent.heartbeat())

    assert 600 <= row.ask_tick - 32 <= 750


def test_requests_of_a_partition_are_bounded_by_a_bucket() -> None:
    world = World()
    fleet = [Agent(host_at(index)) for index in range(40)]
    for agent in fleet:
        world.started(agent)
        agent.vms[vm(0)] = {}

    at_once = [request for agent in fleet for request in world.hear(agent.heartbeat()).requests]
    world.tick(9)
    later = [request for agent in fleet for request in world.hear(agent.heartbeat()).requests]

    assert len(at_once) == 20
    assert len(later) == 18
    assert len({request.host_id for request in at_once + later}) == 38


def test_three_equal_failures_flag_the_host_and_end_the_asking(world: World, agent: Agent) -> None:
    honest = agent.digest
    agent.digest = lambda: (honest() + 5) % (1 << 64)  # type: ignore[method-assign]
    for failure in range(3):
        said = world.hear_all(agent.snapshot())
        assert [change.flags for change in said.changes] == ([["digest_mismatch"]] if failure == 2 else [])

    assert world.tick(700, beat=(agent,)).requests == []

    agent.digest = honest  # type: ignore[method-assign]
    assert world.hear(agent.heartbeat()).changes[0].flags == []


def test_other_differences_are_asked_about_in_spite_of_the_flag(world: World, agent: Agent) -> None:
    honest = agent.digest
    agent.digest = lambda: (honest() + 5) % (1 << 64)  # type: ignore[method-assign]
    for _ in range(3):
        world.hear_all(agent.snapshot())
    world.tick(100, beat=(agent,))
    agent.vms[vm(9)] = {"run": b"lost"}

    assert asked(world.hear(agent.heartbeat())) == ["digest"]


def test_nothing_is_compared_while_a_snapshot_is_under_way(world: World, agent: Agent) -> None:
    agent.vms[vm(0)] = {"run": b"unsaid"}
    parts = agent.snapshot(3)

    assert [asked(world.hear(part)) for part in parts] == [[], [], []]


def test_snapshot_that_stands_still_is_given_up(world: World, agent: Agent) -> None:
    world.hear(agent.snapshot(2)[0])
    agent.seq -= 1
    agent.vms[vm(0)] = {"run": b"unsaid"}

    assert world.tick(60, beat=(agent,)).requests == []
    assert asked(world.tick(5, beat=(agent,))) == ["digest"]


def test_snapshot_with_a_part_missing_confirms_nothing(world: World, agent: Agent) -> None:
    other = agent.restarted()
    first, _, last = other.snapshot(3)
    world.hear(first)

    said = world.hear(last)

    assert said.events == []
    assert asked(said) == ["sequence_gap"]
    assert world.hear_all(other.snapshot()).events == [HostEvent.CONFIRMED]


def test_snapshot_interrupted_by_another_is_replaced(world: World, agent: Agent) -> None:
    other = agent.restarted()
    world.hear(other.snapshot(2)[0])
    other.seq -= 1

    assert world.hear_all(other.snapshot(2)).events == [HostEvent.CONFIRMED]


def test_agent_that_says_farewell_is_not_asked(world: World, agent: Agent) -> None:
    agent.vms[vm(0)] = {"run": b"unsaid"}

    assert world.hear(agent.say(Farewell())).requests == []


def test_gap_leaves_no_host_confirmed_and_asks_all_with_force(world: World, agent: Agent) -> None:
    other = Agent(host_at(1))
    world.started(other)
    next_offset = world.offset + 100

    world.core.gap(world.offset, next_offset)
    said = world.seal()

    assert world.core.applied == next_offset - 1
    assert said.events == [HostEvent.UNCONFIRMED] * 2
    assert said.causes == [Cause.GAP] * 2
    assert [(request.reason, request.force) for request in said.requests] == [("gap", True)] * 2
    assert not any(change.confirmed for change in said.changes)
    world.offset = next_offset
    agent.seq += 20
    assert world.hear(agent.heartbeat()).events == []
    plain = world.hear_all(agent.snapshot())
    assert plain.events == [HostEvent.CONFIRMED]
    row = world.core.hosts[agent.host_id].row
    assert row.resync is not None
    world.hear_all(agent.snapshot(force=True, answers=(row.resync.request_id,)))
    assert world.core.hosts[agent.host_id].row.resync is None


def test_seal_without_inputs_is_empty() -> None:
    assert World().core.seal() == Batch([], [])
