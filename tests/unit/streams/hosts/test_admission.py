"""Admission and host conflicts: design §4.1, rules H2, H3, H4; faults M1, M4, A1, A2, A6, A8."""

from dataclasses import replace

import pytest

from schemas.change import Cause
from schemas.observation import HostEvent
from schemas.report import Changes
from schemas.status import Reachability
from streams.hosts.policy import SECOND_NS, HostsPolicy
from tests.unit.streams.hosts.world import PARTITIONS, Agent, World, host_at, vm


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def agent() -> Agent:
    agent = Agent(host_at(0))
    agent.vms = {vm(index): {"run": b"r%d" % index} for index in range(4)}
    return agent


def test_first_report_ever_is_back_and_a_complete_snapshot_confirms(world: World, agent: Agent) -> None:
    said = world.started(agent)

    assert said.events == [HostEvent.BACK, HostEvent.CONFIRMED]
    assert set(said.vms) == set(agent.vms)
    assert said.requests == []
    (change,) = said.changes
    assert (change.version, change.cause, change.confirmed) == (1, Cause.CREATED, True)
    assert change.reachability.state is Reachability.UP


def test_first_report_that_is_no_snapshot_is_asked_for_one(world: World, agent: Agent) -> None:
    said = world.hear(agent.heartbeat())

    assert [request.reason for request in said.requests] == ["new_epoch"]
    assert said.events == [HostEvent.BACK]
    assert not said.changes[0].confirmed


def test_snapshot_in_parts_confirms_with_its_last(world: World, agent: Agent) -> None:
    first, second, third = agent.snapshot(3)

    assert world.hear(first).events == [HostEvent.BACK]
    assert world.hear(second).events == []
    assert world.hear(third).events == [HostEvent.CONFIRMED]


def test_repeated_seq_is_dropped_and_counted(world: World, agent: Agent) -> None:
    world.started(agent)
    report = agent.change({vm(0): {"run": b"new"}})
    world.hear(report)

    said = world.hear(report)

    assert (said.reports, said.changes) == ([], [])
    assert world.counted["repeats_records", ()] == 1


def test_seq_gap_asks_for_a_resync_and_what_arrived_applies(world: World, agent: Agent) -> None:
    world.started(agent)
    agent.change({vm(0): {"run": b"lost"}})

    said = world.hear(agent.change({vm(1): {"run": b"heard"}}))

    assert said.vms == {vm(1): ({"run": b"heard"}, None)}
    assert [request.reason for request in said.requests] == ["sequence_gap"]
    assert world.counted["sequence_gaps", ()] == 1


def test_restarted_agent_that_reports_the_same_changes_no_vm(world: World, agent: Agent) -> None:
    """Scenario 19, fault A2."""
    world.started(agent)

    said = world.hear_all(agent.restarted().snapshot())

    assert said.vms == {}
    assert said.events == [HostEvent.NEW_EPOCH, HostEvent.CONFIRMED]
    assert said.requests == []
    assert said.causes == [Cause.HOST]


def test_new_boot_is_said_to_every_partition(world: World, agent: Agent) -> None:
    world.started(agent)

    said = world.hear(agent.restarted(boot=True).snapshot(2)[0])

    heard = [said_ for _, report in said.reports for said_ in report.host]
    assert [said_.event for said_ in heard] == [HostEvent.NEW_BOOT] * PARTITIONS


def test_new_epoch_is_confirmed_by_a_snapshot_only(world: World, agent: Agent) -> None:
    """Rule H2: an equal digest confirms within the same epoch."""
    world.started(agent)
    other = agent.restarted()

    said = world.hear(other.heartbeat())

    assert (said.events, [request.reason for request in said.requests]) == ([HostEvent.NEW_EPOCH], ["new_epoch"])
    assert world.hear_all(other.snapshot()).events == [HostEvent.CONFIRMED]


def test_reports_of_a_retired_epoch_are_dropped(world: World, agent: Agent) -> None:
    world.started(agent)
    world.started(agent.restarted())

    said = world.hear(agent.change({vm(0): {"run": b"from the past"}}))

    assert (said.reports, said.changes) == ([], [])
    assert world.counted["dropped_records", ("retired_epoch", "true")] == 1


def test_late_reports_of_the_old_epoch_within_five_seconds_are_no_conflict(world: World, agent: Agent) -> None:
    world.started(agent)
    world.started(agent.restarted())
    world.now += 4 * SECOND_NS

    events = [event for _ in range(3) for event in world.hear(agent.heartbeat()).events]

    assert events == []


def conflicting(world: World, agent: Agent) -> Agent:
    """Two agents with one host id (fault A8); returns the newer."""
    world.started(agent)
    other = agent.restarted()
    world.started(other)
    world.tick(6, beat=(other,))
    world.hear(agent.heartbeat())
    said = world.hear(agent.heartbeat())
    assert said.events == [HostEvent.CONFLICT]
    assert said.changes[0].reachability.state is Reachability.CONFLICT
    assert said.causes == [Cause.CONFLICT]
    return other


def test_h3_second_late_report_of_a_retired_epoch_is_a_conflict(world: World, agent: Agent) -> None:
    conflicting(world, agent)


def test_h3_another_machine_in_a_new_epoch_is_a_conflict(world: World, agent: Agent) -> None:
    world.started(agent)
    clone = Agent(agent.host_id, epoch=77, machine=2)

    said = world.hear_all(clone.snapshot())

    assert said.events == [HostEvent.CONFLICT, HostEvent.NEW_EPOCH]


def test_h3_empty_list_of_a_cloned_host_proves_no_absence(world: World, agent: Agent) -> None:
    """Scenario 24."""
    world.started(agent)
    clone = Agent(agent.host_id, epoch=77, boot=5, machine=2)

    said = world.hear_all(clone.snapshot())

    assert (said.vms, said.inventory) == ({}, {})
    assert HostEvent.NEW_BOOT not in said.events


@pytest.mark.parametrize("survivor_is_retired", [False, True])
def test_h3_conflict_ends_when_one_is_alone_for_a_grace_and_answers(
    world: World, agent: Agent, survivor_is_retired: bool
) -> None:
    newer = conflicting(world, agent)
    survivor = agent if survivor_is_retired else newer

    said = world.tick(30, beat=(survivor,))

    request = said.requests[-1]
    assert request.reason == "host_conflict"
    assert world.hear_all(survivor.snapshot()).events == []
    ended = world.hear_all(survivor.snapshot(answers=(request.request_id,)))
    assert ended.events == [HostEvent.CONFLICT_ENDED, HostEvent.CONFIRMED]
    assert ended.causes == [Cause.CONFLICT_ENDED]
    assert set(ended.inventory) == set(range(PARTITIONS))


def test_h3_conflict_goes_on_while_both_speak(world: World, agent: Agent) -> None:
    newer = conflicting(world, agent)

    said = world.tick(60, beat=(agent, newer))

    assert said.events == []
    assert not any(request.reason == "host_conflict" for request in said.requests)


def test_h3_broken_answer_is_asked_for_again(world: World, agent: Agent) -> None:
    survivor = conflicting(world, agent)
    request = world.tick(30, beat=(survivor,)).requests[-1]
    world.hear(survivor.snapshot(2, answers=(request.request_id,))[1])

    again = world.tick(60, beat=(survivor,)).requests[-1]

    ended = world.hear_all(survivor.snapshot(answers=(again.request_id,)))
    assert HostEvent.CONFLICT_ENDED in ended.events


def test_retired_epochs_are_kept_sixteen_and_ten_minutes() -> None:
    world = World()
    agent = Agent(host_at(0))
    for _ in range(20):
        world.hear_all(agent.snapshot())
        agent = agent.restarted()
    row = world.core.hosts[agent.host_id].row
    assert len(row.retired) == 19

    world.now += 601 * SECOND_NS
    world.hear_all(agent.snapshot())

    assert len(row.retired) == 16


def test_more_epochs_than_are_kept_raise_agent_flapping_until_ten_steady_minutes() -> None:
    world = World(replace(HostsPolicy(), retired_most=17))
    agent = Agent(host_at(0))
    for _ in range(19):
        said = world.hear_all(agent.snapshot())
        agent = agent.restarted()
    assert said.changes[-1].flags == ["agent_flapping"]

    world.hear_all(agent.snapshot())
    world.now += 601 * SECOND_NS

    assert world.hear(agent.heartbeat()).changes[-1].flags == []


def test_h4_skew_of_three_reports_is_flagged_and_orders_nothing(world: World, agent: Agent) -> None:
    """Fault A6: a clock an hour ahead."""
    world.started(agent)
    hour = 3600 * SECOND_NS
    for _ in range(2):
        assert world.hear(agent.heartbeat(), observed_at=world.now + hour).changes == []

    said = world.hear(agent.change({vm(0): {"run": b"new"}}), observed_at=world.now + hour)

    assert said.changes[0].flags == ["clock_skewed"]
    assert said.vms == {vm(0): ({"run": b"new"}, None)}
    assert said.changes[0].detected_at == world.now
    assert world.hear(agent.heartbeat()).changes[0].flags == []


def test_h4_time_spent_waiting_in_the_agent_is_no_skew(world: World, agent: Agent) -> None:
    world.started(agent)
    minute = 60 * SECOND_NS

    said = [
        world.hear(
            agent.heartbeat(),
            observed_at=world.now - minute,
            observed_monotonic_ns=5,
            sent_monotonic_ns=5 + minute,
        )
        for _ in range(4)
    ]

    assert [each.changes for each in said] == [[], [], [], []]


def test_machine_that_changes_within_an_epoch_is_refused(world: World, agent: Agent) -> None:
    world.started(agent)

    said = world.hear(agent.say(Changes()), machine_id=b"x" * 16)

    assert said.dead_reasons() == ["malformed"]
    assert said.reports == []
