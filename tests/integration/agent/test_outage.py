"""A broker that stands still: nothing is lost, nobody is called gone, and a lost report begins a new epoch."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from infra.stack.endpoints import Endpoints
from producers.agent.clock import SystemClock
from producers.agent.settings import AgentSettings
from producers.simulator import scripts
from producers.simulator.fleet import Fleet
from producers.simulator.life import Life, parse_phases
from producers.simulator.runner import SimulatedFleetAgent
from tests.integration.agent.conftest import Reports
from tests.integration.agent.playing import assert_told_is_true, running, settled

pytestmark = pytest.mark.stack


@contextmanager
def broker_frozen(endpoints: Endpoints) -> Iterator[None]:
    pid = endpoints.pids["kafka"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_state_coalesces_while_the_broker_is_away(
    settings: AgentSettings, reports: Reports, endpoints: Endpoints
) -> None:
    fleet = Fleet(hosts=3, vms=60, seed=1, clock=SystemClock())
    life = Life(fleet, rate=200, phases=parse_phases("busy:9,stable:100"), seed=1)
    with running(SimulatedFleetAgent(settings, fleet, life=life)) as agent:
        reports.read_until(lambda: sum(receiver.snapshots for receiver in reports.by_host.values()) == 3)
        with broker_frozen(endpoints):
            time.sleep(5)
            in_flight = agent.call(lambda: max(r.in_flight for r in agent._agents._reporters.values()))
            assert in_flight <= settings.max_in_flight
        reports.read_until(lambda: agent.call(lambda: life.stable), timeout_seconds=40)
        settled(agent, reports)
        assert_told_is_true(reports, fleet)
        counts = agent.counts()
        assert counts["coalesced"] > 100
        assert counts["lost_reports"] == counts["new_epochs"] == 0
    assert reports.problems == []
    assert [receiver.epochs for receiver in reports.by_host.values()] == [1, 1, 1]


def test_lost_reports_begin_a_new_epoch_and_reasons_are_told_again(
    settings: AgentSettings, reports: Reports, endpoints: Endpoints
) -> None:
    settings = settings.model_copy(update={"delivery_timeout_seconds": 2.0})
    fleet = Fleet(hosts=1, vms=20, seed=2, clock=SystemClock())
    with running(SimulatedFleetAgent(settings, fleet)) as agent:
        settled(agent, reports)
        agent.do(scripts.stop(3), gap_seconds=0.0)
        with broker_frozen(endpoints):
            agent.call(lambda: fleet.start(scripts.undefine(3)))
            agent.call(lambda: fleet.start(scripts.pause(4)))
            time.sleep(6)
        receiver = reports.by_host[fleet.hosts[0].host_id]
        reports.read_until(lambda: receiver.epochs == 2 and receiver.snapshots == 2, timeout_seconds=40)
        settled(agent, reports)
        assert_told_is_true(reports, fleet)
        assert agent.counts()["new_epochs"] == 1
        assert (fleet.vms[3].vm_id, "undefined") in receiver.gone
        assert (fleet.vms[3].vm_id, "inventory") not in receiver.gone
    assert receiver.problems == []
