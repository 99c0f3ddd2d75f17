"""All agents of a fleet without Kafka: what they send adds up to the fleet, cheaply, through every kind of trouble."""

from __future__ import annotations

from collections import defaultdict

import pytest

from producers.agent.publish import Delivery
from producers.agent.reporter import Policy
from producers.simulator import agents, scripts
from producers.simulator.agents import FleetReporters
from producers.simulator.clock import VirtualClock, elapse
from producers.simulator.fleet import Fleet
from producers.simulator.life import Life, parse_phases
from schemas.report import HostReport
from tests.unit.producers.agent.building import ids
from tests.unit.producers.agent.receiver import Receiver


class Wire:
    """A fleet, its agents, and a receiver per host at the other end; delivery is immediate."""

    def __init__(self, fleet: Fleet, clock: VirtualClock) -> None:
        self.fleet = fleet
        self.clock = clock
        self.agents = FleetReporters(fleet, Policy(), ids())
        self.receivers: dict[bytes, Receiver] = defaultdict(Receiver)
        self.reports = 0
        self._sent: list[HostReport] = []

    def turn(self) -> None:
        self.agents.look(self.clock.now(), self._sent.append)
        self.agents.serve(self.clock.now(), self._sent.append)
        for report in self._sent:
            self.reports += 1
            self.receivers[report.host_id].take(report)
            fate = Delivery(report.host_id, report.agent_epoch, report.seq, report.observed_at, 0, None)
            self.agents.decided(fate, self.clock.now())
        self._sent.clear()

    def settle(self) -> None:
        for _ in range(1000):
            self.turn()
            if self.agents.settled:
                return
        raise AssertionError("never settled")

    def problems(self) -> list[str]:
        return [problem for receiver in self.receivers.values() for problem in receiver.problems]

    def agrees(self) -> bool:
        return {host: (receiver.digest(), len(receiver.vms)) for host, receiver in self.receivers.items()} == (
            self.agents.digests()
        )


def wire(*, hosts: int = 4, vms: int = 80) -> Wire:
    clock = VirtualClock()
    return Wire(Fleet(hosts=hosts, vms=vms, seed=1, clock=clock), clock)


def test_a_whole_life_adds_up() -> None:
    world = wire()
    life = Life(world.fleet, rate=50, phases=parse_phases("busy:20"), seed=4)
    while not life.stable:
        life.advance()
        elapse(world.fleet, world.clock, 0.05)
        life.advance()
        world.fleet.advance()
        world.turn()
    world.settle()
    assert world.problems() == []
    assert world.agrees()
    for host in world.fleet.hosts:
        assert world.receivers[host.host_id].vms.keys() == {world.fleet.vms[vm].vm_id for vm in host.runs}


def test_a_stable_fleet_costs_heartbeats_only() -> None:
    world = wire(hosts=20, vms=600)
    world.settle()
    before = world.reports
    for _ in range(600):
        world.clock.move(0.1)
        world.turn()
    assert world.agents.counts()["change_reports"] == 0
    assert world.reports - before == world.agents.counts()["heartbeats"]
    assert 20 * 60 / 5 <= world.reports - before <= 20 * 60 / 4.5
    assert world.problems() == []


def test_crash_restart_and_disconnection() -> None:
    world = wire()
    world.settle()
    zero, one, two = (world.receivers[host.host_id] for host in world.fleet.hosts[:3])
    world.fleet.start(scripts.crash_host(0))
    world.fleet.start(scripts.restart_agent(1, away_seconds=2.0))
    world.fleet.start(scripts.disconnect_hypervisor(2, seconds=8.0))
    elapse(world.fleet, world.clock, 1.0)
    world.settle()
    assert (zero.said_farewell, one.said_farewell, two.said_farewell) == (False, True, False)
    assert len(world.agents.digests()) == 2
    world.fleet.start(scripts.stop(2))
    elapse(world.fleet, world.clock, 6.0)
    world.settle()
    assert two.heartbeats == 1
    assert two.gone == []
    world.fleet.start(scripts.return_host(0))
    elapse(world.fleet, world.clock, 5.0)
    world.settle()
    assert [receiver.epochs for receiver in (zero, one, two)] == [2, 2, 1]
    assert zero.gone == one.gone == two.gone == []
    assert world.problems() == []
    assert world.agrees()


def test_listings_of_a_large_fleet_do_not_come_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "LISTED_AT_ONCE", 100)
    world = wire(hosts=10, vms=500)
    world.turn()
    assert len(world.receivers) < 10
    assert world.agents.next_due_ns() == 0
    world.settle()
    assert len(world.receivers) == 10
