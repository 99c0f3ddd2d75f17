"""The agent of one host on a real broker, over a simulated source."""

from __future__ import annotations

import threading

import pytest

from producers.agent.clock import SystemClock
from producers.agent.rendering import parse
from producers.agent.service import AgentService
from producers.agent.settings import AgentSettings
from producers.simulator import scripts
from producers.simulator.fleet import Fleet, Script
from producers.simulator.source import SimulatedSource
from schemas.facets import HostFacet
from schemas.facets.host import HostReachability
from schemas.facets.normal import fingerprint
from tests.integration.agent.conftest import Reports
from tests.integration.agent.playing import ask_for_snapshot, assert_told_is_true, running, told
from tests.unit.producers.agent.receiver import Receiver

pytestmark = pytest.mark.stack


class OneHost:
    """Host 0 of a small fleet, acted upon from the test's thread."""

    def __init__(self, vms: int) -> None:
        self.guard = threading.Condition()
        self.fleet = Fleet(hosts=1, vms=vms, seed=9, clock=SystemClock())
        self.source = SimulatedSource(self.fleet, 0, self.guard)
        self.id = self.fleet.hosts[0].host_id

    def start(self, script: Script) -> None:
        with self.guard:
            self.fleet.start(script)
            self.guard.notify_all()

    def connected(self, connected: bool) -> None:
        with self.guard:
            self.fleet.set_connected(0, connected)
            self.guard.notify_all()


def is_told(host: OneHost, reports: Reports) -> bool:
    """True when the log says what is true now."""
    with host.guard:
        if host.fleet.running_scripts:
            return False
        try:
            assert_told_is_true(reports, host.fleet)
        except AssertionError:
            return False
        return True


def reachability(receiver: Receiver) -> HostReachability | None:
    data = receiver.host.get(HostFacet.REACHABILITY.value)
    facet = None if data is None else parse(data, HostReachability)
    return facet if isinstance(facet, HostReachability) else None


def test_changes_resync_and_farewell(settings: AgentSettings, reports: Reports) -> None:
    host = OneHost(vms=10)
    with running(AgentService(settings, host.source)):
        receiver = reports.by_host[host.id]
        reports.read_until(lambda: receiver.snapshots == 1)
        host.start(scripts.then(scripts.stop(1), scripts.undefine(1)))
        host.start(scripts.reboot(2))
        host.start(scripts.plug(3))
        reports.read_until(lambda: is_told(host, reports))
        asked = ask_for_snapshot(settings, host.id, 1, force=True)
        reports.read_until(lambda: receiver.answered == [asked])
        assert receiver.forced == 1
        reports.read_until(lambda: receiver.heartbeats >= 2)
    reports.read_until(lambda: receiver.said_farewell)
    assert reports.problems == []
    assert (host.fleet.vms[1].vm_id, "undefined") in receiver.gone


def test_a_source_that_is_away_says_nothing_about_vms(settings: AgentSettings, reports: Reports) -> None:
    host = OneHost(vms=4)
    with running(AgentService(settings, host.source)):
        receiver = reports.by_host[host.id]
        reports.read_until(lambda: receiver.snapshots == 1)
        before = told(reports, host.fleet)
        host.connected(False)
        reports.read_until(lambda: (said := reachability(receiver)) is not None and not said.source_connected)
        heartbeats = receiver.heartbeats
        asked = ask_for_snapshot(settings, host.id, 3, force=False)
        reports.read_until(lambda: receiver.heartbeats > heartbeats + 2)
        assert receiver.answered == []
        assert told(reports, host.fleet) == before
        host.start(scripts.pause(2))
        host.connected(True)
        reports.read_until(lambda: is_told(host, reports) and receiver.answered == [asked])
        said = reachability(receiver)
        assert said is not None
        assert fingerprint(said) == fingerprint(HostReachability(source_connected=True))
    assert reports.problems == []


def test_an_agent_whose_source_never_answered_is_silent(settings: AgentSettings, reports: Reports) -> None:
    host = OneHost(vms=4)
    host.connected(False)
    with running(AgentService(settings, host.source)):
        reports.read_some(2.0)
        assert reports.taken == []
        host.connected(True)
        reports.read_until(lambda: reports.by_host[host.id].snapshots == 1)
    reports.read_until(lambda: reports.by_host[host.id].said_farewell)
    assert reports.problems == []
