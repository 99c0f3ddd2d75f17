"""Ticks, silence, mass and degraded: design §4, rules H1, H2, H5, H6; INV-7."""

import pytest

from schemas.change import Cause
from schemas.codec import NewerMajorError, encode, header_of
from schemas.facets.host import HostReachability
from schemas.observation import HostEvent
from schemas.report import Farewell
from schemas.status import Reachability
from schemas.tick import TICK_KEY, Tick
from streams.hosts.policy import SECOND_NS, HostsPolicy
from streams.runtime.stage import Input
from tests.unit.streams.hosts.world import OWNER, PARTITION, PARTITIONS, Agent, World, host_at, tick_input, vm

ANOTHER = b"a" * 16
AWAY = {"host_reachability": encode(HostReachability(source_connected=False))}
THERE = {"host_reachability": encode(HostReachability(source_connected=True))}


@pytest.fixture
def world() -> World:
    return World()


def agents(count: int) -> tuple[Agent, ...]:
    """So many hosts without VMs."""
    return tuple(Agent(host_at(index)) for index in range(count))


def start(world: World, *fleet: Agent) -> None:
    """All are heard and confirmed."""
    for agent in fleet:
        world.started(agent)


def test_tick_counts_and_the_next_is_expected(world: World) -> None:
    assert world.core.expected_tick == 1

    world.tick(3)

    assert world.core.expected_tick == 4
    assert world.counted["ticks_counted", ()] == 3


@pytest.mark.parametrize(
    ("n", "seconds", "reason"), [(3, 1.0, "out_of_order"), (1, 1.0, "out_of_order"), (2, 0.89, "early")]
)
def test_tick_that_does_not_follow_is_refused(world: World, n: int, seconds: float, reason: str) -> None:
    world.tick()

    world.feed(tick_input(n, offset=world.offset, at=world.now + int(seconds * SECOND_NS)))

    assert world.core.expected_tick == 2
    assert world.counted["ticks_refused", (reason,)] == 1


def test_tick_of_another_place_or_secret_is_forged(world: World) -> None:
    tick = Tick(n=1, owner=OWNER, rules_version=99, mac=bytes(32))

    world.feed(Input(PARTITION, 0, world.now, TICK_KEY, encode(tick), header_of(Tick)))

    assert world.counted == {("ticks_refused", ("forged",)): 1}


@pytest.mark.parametrize("value", [b"", b"\x80", b"\x91" * 600])
def test_malformed_tick_is_refused(world: World, value: bytes) -> None:
    world.feed(Input(PARTITION, 0, world.now, TICK_KEY, value, header_of(Tick)))

    assert world.counted == {("ticks_refused", ("malformed",)): 1}


def test_tick_of_newer_rules_stops_the_worker(world: World) -> None:
    with pytest.raises(NewerMajorError, match=r"host\.reports\[1\]@0: .*rules version 2.*; upgrade"):
        world.core.apply(tick_input(1, offset=0, at=world.now, rules_version=2))


def test_w3_tick_of_newer_rules_before_the_rollback_counts(world: World) -> None:
    world.core.newer_until = 1

    world.feed(tick_input(1, offset=0, at=world.now, rules_version=2))

    assert world.counted == {("ticks_counted", ()): 1}
    with pytest.raises(NewerMajorError):
        world.core.apply(tick_input(2, offset=1, at=world.now + SECOND_NS, rules_version=2))


def test_tick_of_another_major_is_refused_since_nobody_can_tell_who_signed_it(world: World) -> None:
    tick = tick_input(1, offset=0, at=world.now)

    world.feed(tick._replace(schema=b"Tick/2.0"))

    assert world.counted == {("ticks_refused", ("malformed",)): 1}


def test_h1_host_unheard_for_its_grace_is_silent(world: World) -> None:
    (agent,) = agents(1)
    start(world, agent)

    assert world.tick(19).events == []
    said = world.tick()

    assert said.events == [HostEvent.SILENT]
    assert {target for target, _ in said.reports} == set(range(PARTITIONS))
    report = said.reports[0][1]
    assert (report.offset, report.appended_at, report.seq) == (world.offset - 1, world.now, 52)
    assert (report.boot_id, report.agent_epoch) == (agent.boot_id, agent.epoch)
    (change,) = said.changes
    assert (change.cause, change.reachability.state, change.confirmed) == (Cause.TIMER, Reachability.SILENT, False)
    assert (change.evidence.host, change.evidence.tick) == (None, 52)


def test_h1_grace_grows_with_the_vms_up_to_a_bound() -> None:
    policy = HostsPolicy()

    assert [policy.grace_ticks(vms) for vms in (0, 1, 50, 51, 1000, 10**6)] == [20, 21, 21, 22, 40, 120]


def test_h1_grace_shrinks_at_once_when_the_vms_are_gone(world: World) -> None:
    (agent,) = agents(1)
    agent.vms = {vm(index): {} for index in range(1000)}
    start(world, agent)
    agent.vms = {}
    world.hear_all(agent.snapshot())

    assert world.tick(20).events == [HostEvent.SILENT]


def test_h1_heartbeats_keep_a_host_up(world: World) -> None:
    fleet = agents(3)
    start(world, *fleet)

    assert world.tick(200, beat=fleet).events == []


def test_silent_host_is_said_once(world: World) -> None:
    start(world, *agents(1))

    assert world.tick(300).events == [HostEvent.SILENT]


def test_h2_host_is_back_with_its_first_report_and_confirmed_by_its_digest(world: World) -> None:
    (agent,) = agents(1)
    start(world, agent)
    world.tick(20)

    said = world.hear(agent.heartbeat())

    assert said.events == [HostEvent.BACK, HostEvent.CONFIRMED]
    assert said.changes[0].reachability.state is Reachability.UP
    assert world.tick(20).events == [HostEvent.SILENT]


def test_h2_host_that_is_back_with_another_digest_is_not_confirmed(world: World) -> None:
    (agent,) = agents(1)
    start(world, agent)
    world.tick(20)
    agent.vms[vm(0)] = {"run": b"unsaid"}

    said = world.hear(agent.heartbeat())

    assert said.events == [HostEvent.BACK]
    assert [request.reason for request in said.requests] == ["digest"]
    assert world.hear_all(agent.snapshot()).events == [HostEvent.CONFIRMED]


def test_h5_farewell_changes_the_reason_of_silence_not_its_time(world: World) -> None:
    (agent,) = agents(1)
    start(world, agent)
    assert world.hear(agent.say(Farewell(reason="maintenance"))).events == []

    assert world.tick(19).events == []
    said = world.tick()

    assert said.events == [HostEvent.STOPPED]
    reachability = said.changes[0].reachability
    assert (reachability.state, reachability.reason) == (Reachability.AGENT_STOPPED, "maintenance")


def test_h5_agent_upgrade_changes_nothing(world: World) -> None:
    """Scenario 23."""
    (agent,) = agents(1)
    agent.vms = {vm(0): {"run": b"r"}}
    start(world, agent)
    world.hear(agent.say(Farewell(reason="upgrade")))
    world.tick(5)

    said = world.hear_all(agent.restarted().snapshot())

    assert said.vms == {}
    assert said.events == [HostEvent.NEW_EPOCH, HostEvent.CONFIRMED]
    assert world.tick(21).events == [HostEvent.SILENT]


@pytest.mark.parametrize(("seconds", "owner"), [(6, OWNER), (1, ANOTHER)])
def test_gap_or_another_worker_restarts_silence_with_extra_time(world: World, seconds: int, owner: bytes) -> None:
    start(world, *agents(1))
    world.tick(19)
    world.now += (seconds - 1) * SECOND_NS

    assert world.tick(1 + 30 + 19, owner=owner).events == []
    assert world.tick(owner=owner).events == [HostEvent.SILENT]


def test_broker_away_for_two_minutes_makes_nobody_silent(world: World) -> None:
    """Scenario 27."""
    fleet = agents(8)
    start(world, *fleet)
    world.tick(10)
    world.now += 120 * SECOND_NS

    assert world.tick(60, beat=fleet).events == []


@pytest.mark.parametrize(
    ("hosts", "cut", "mass"), [(20, 6, True), (20, 5, False), (19, 5, True), (10, 4, False), (5, 5, True)]
)
def test_many_that_fall_together_are_mass(world: World, hosts: int, cut: int, mass: bool) -> None:
    """More than a quarter of the partition's hosts, and at least five."""
    fleet = agents(hosts)
    start(world, *fleet)
    for agent in fleet:
        world.hear(agent.heartbeat())

    said = world.tick(21, beat=fleet[cut:])

    assert said.events == [HostEvent.SILENT] * cut
    assert said.mass == [mass] * cut
    assert {change.reachability.mass for change in said.changes} == {mass}


def test_mass_counts_hosts_whose_last_reports_differ_by_a_heartbeat(world: World) -> None:
    fleet = agents(10)
    start(world, *fleet)
    for agent in fleet:
        world.hear(agent.heartbeat())
        world.tick()

    said = world.tick(30)

    assert said.events == [HostEvent.SILENT] * 10
    assert said.mass == [True] * 10


def test_long_silent_hosts_are_not_part_of_a_mass(world: World) -> None:
    dead, living = agents(10)[:4], agents(10)[4:]
    start(world, *dead, *living)
    for agent in (*dead, *living):
        world.hear(agent.heartbeat())
    world.tick(60, beat=living)

    said = world.tick(30, beat=living[1:])

    assert (said.events, said.mass) == ([HostEvent.SILENT], [False])


def test_h6_source_away_for_sixty_ticks_is_degraded_and_recovers_with_a_snapshot(world: World) -> None:
    (agent,) = agents(1)
    agent.vms = {vm(0): {"run": b"r"}}
    start(world, agent)
    world.hear(agent.change(host=AWAY))

    assert world.tick(59, beat=(agent,)).events == []
    said = world.tick(1, beat=(agent,))
    assert said.events == [HostEvent.DEGRADED]
    assert said.changes[0].reachability.state is Reachability.DEGRADED
    assert world.tick(10, beat=(agent,)).events == []

    said = world.hear(agent.change(host=THERE))
    assert said.events == [HostEvent.RECOVERED]
    assert len(said.requests) == 1
    assert world.hear_all(agent.snapshot()).events == [HostEvent.CONFIRMED]


def test_h6_source_away_for_a_moment_is_nothing_but_a_facet(world: World) -> None:
    (agent,) = agents(1)
    start(world, agent)
    world.hear(agent.change(host=AWAY))
    world.tick(59, beat=(agent,))

    assert world.hear(agent.change(host=THERE)).events == []
    assert world.tick(70, beat=(agent,)).events == []


def test_degraded_host_still_falls_silent_and_is_not_confirmed_while_its_source_is_away(world: World) -> None:
    (agent,) = agents(1)
    start(world, agent)
    world.hear(agent.change(host=AWAY))
    world.tick(60, beat=(agent,))

    assert world.tick(20).events == [HostEvent.SILENT]
    assert world.hear(agent.heartbeat()).events == [HostEvent.BACK]
    assert world.hear(agent.change(host=THERE)).events == [HostEvent.RECOVERED]


def test_clock_goes_alone_at_most_every_five_ticks(world: World) -> None:
    world.tick(1)

    said = world.tick(20)

    alone = [(target, batch.tick, batch.tick_at) for target, batch in said.batches if target == 0]
    assert [tick for _, tick, _ in alone] == [5, 10, 15, 20]
    assert len(said.batches) == PARTITIONS * len(alone)
    assert all(batch.reports == [] and batch.source == PARTITION for _, batch in said.batches)


def test_clock_rides_with_observations(world: World) -> None:
    (agent,) = agents(1)
    start(world, agent)
    world.tick(2)

    said = world.hear(agent.change({vm(0): {"run": b"r"}}))

    ((_, batch),) = said.batches
    assert (batch.tick, batch.tick_at) == (34, world.now)
