"""A simulated fleet's agents on a real broker: what is in the log adds up to what the agents and the fleet say."""

from __future__ import annotations

from pathlib import Path

import pytest

from producers.agent.clock import SystemClock
from producers.agent.settings import AgentSettings
from producers.simulator import migrations, scripts
from producers.simulator.fleet import Fleet
from producers.simulator.life import Life, parse_phases
from producers.simulator.runner import SimulatedFleetAgent
from producers.simulator.truth import read_truth
from schemas.status import GoneReason
from tests.integration.agent.conftest import Reports
from tests.integration.agent.playing import ask_for_snapshot, assert_told_is_true, running, settled

pytestmark = pytest.mark.stack


def test_scripts_arrive_in_order_and_add_up(settings: AgentSettings, reports: Reports) -> None:
    fleet = Fleet(hosts=3, vms=30, seed=1, clock=SystemClock())
    with running(SimulatedFleetAgent(settings, fleet)) as agent:
        for script in (
            scripts.stop(0),
            scripts.pause(1),
            scripts.plug(2),
            scripts.reboot(3),
            scripts.qemu_death(6),
            scripts.guest_change(4),
            migrations.migrate(5, 0),
            migrations.migrate_fail(7, 0),
            migrations.migrate_cancel(8, 0),
        ):
            agent.do(script, gap_seconds=0.05)
        agent.do(scripts.undefine(0))
        settled(agent, reports)
        assert_told_is_true(reports, fleet)
    reports.read_until(lambda: all(receiver.said_farewell for receiver in reports.by_host.values()))
    assert reports.problems == []
    assert len(reports.by_host) == 3
    gone = reports.by_host[fleet.hosts[0].host_id].gone
    assert (fleet.vms[0].vm_id, GoneReason.UNDEFINED.value) in gone
    assert (fleet.vms[5].vm_id, GoneReason.MIGRATED.value) in reports.by_host[fleet.hosts[2].host_id].gone


def test_host_crash_comes_back_as_a_new_boot(settings: AgentSettings, reports: Reports) -> None:
    fleet = Fleet(hosts=2, vms=8, seed=2, clock=SystemClock())
    with running(SimulatedFleetAgent(settings, fleet)) as agent:
        settled(agent, reports)
        first = reports.by_host[fleet.hosts[0].host_id].boot
        agent.do(scripts.crash_host(0))
        agent.do(scripts.return_host(0))
        settled(agent, reports)
        receiver = reports.by_host[fleet.hosts[0].host_id]
        assert (receiver.epochs, receiver.said_farewell) == (2, False)
        assert receiver.boot != first
        assert_told_is_true(reports, fleet)
    assert reports.problems == []


def test_agent_restart_changes_nothing_but_the_epoch(settings: AgentSettings, reports: Reports) -> None:
    fleet = Fleet(hosts=1, vms=5, seed=3, clock=SystemClock())
    with running(SimulatedFleetAgent(settings, fleet)) as agent:
        settled(agent, reports)
        before = dict(reports.by_host[fleet.hosts[0].host_id].vms)
        agent.do(scripts.restart_agent(0, away_seconds=0.1))
        receiver = reports.by_host[fleet.hosts[0].host_id]
        reports.read_until(lambda: receiver.epochs == 2)
        settled(agent, reports)
        assert receiver.vms == before
    assert reports.problems == []


def test_resync_request_is_answered_by_one_snapshot(settings: AgentSettings, reports: Reports) -> None:
    settings = settings.model_copy(update={"snapshot_interval_seconds": 5.0})
    fleet = Fleet(hosts=3, vms=12, seed=4, clock=SystemClock())
    with running(SimulatedFleetAgent(settings, fleet)) as agent:
        settled(agent, reports)
        asked = [
            ask_for_snapshot(settings, fleet.hosts[1].host_id, 1, force=False),
            ask_for_snapshot(settings, fleet.hosts[1].host_id, 2, force=True),
        ]
        receiver = reports.by_host[fleet.hosts[1].host_id]
        reports.read_until(lambda: sorted(receiver.answered) == sorted(asked))
        settled(agent, reports)
        assert receiver.forced == 1
        assert receiver.snapshots == 2
        assert reports.by_host[fleet.hosts[0].host_id].snapshots == 1
    assert reports.problems == []


def test_request_made_before_the_agent_started_is_answered_by_its_first_snapshot(
    settings: AgentSettings, reports: Reports
) -> None:
    fleet = Fleet(hosts=1, vms=2, seed=5, clock=SystemClock())
    asked = ask_for_snapshot(settings, fleet.hosts[0].host_id, 7, force=True)
    with running(SimulatedFleetAgent(settings, fleet)) as agent:
        settled(agent, reports)
    assert reports.by_host[fleet.hosts[0].host_id].answered == [asked]
    assert reports.by_host[fleet.hosts[0].host_id].snapshots == 1
    assert reports.problems == []


def test_life_and_its_truth_file(settings: AgentSettings, reports: Reports, tmp_path: Path) -> None:
    fleet = Fleet(hosts=4, vms=200, seed=6, clock=SystemClock())
    life = Life(fleet, rate=300, phases=parse_phases("busy:3,stable:60"), seed=6)
    file = tmp_path / "truth.json"
    with running(SimulatedFleetAgent(settings, fleet, life=life, truth_file=file)) as agent:
        reports.read_until(lambda: file.exists(), timeout_seconds=30)
        written = read_truth(file)
        assert written is not None
        assert (written.phase, written.final, len(written.vms)) == (1, False, 200)
        assert written.steps_done >= 850
        settled(agent, reports)
        assert agent.truth().vms == written.vms
        assert_told_is_true(reports, fleet)
        assert agent.counts()["lost_reports"] == 0
    final = read_truth(file)
    assert final is not None
    assert final.final
    assert final.vms == written.vms
    assert reports.problems == []
