"""Several workers of each part join, leave, freeze and die under load (F-P7, F-P13, F-S6, F-B4; INV-1, 2, 3, 6, 7)."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from infra.runtime.errors import ExitCode
from infra.stack.endpoints import Endpoints
from tests.faults.crew import Crew
from tests.faults.faulty_line import FaultyLine
from tests.faults.load import Load, LoadShape

pytestmark = [pytest.mark.stack, pytest.mark.slow]

SESSION_SECONDS = 8.0
SESSIONS = {
    stage: {
        "session_timeout_seconds": SESSION_SECONDS,
        "delivery_timeout_seconds": 3.9,
        "heartbeat_interval_seconds": 2,
    }
    for stage in ("hosts", "vms")
}
TABLES = {**SESSIONS, "postgres": {"session_timeout_seconds": 6.0, "timeouts.idle_in_transaction_seconds": 5}}
SHAPE = LoadShape(changes_per_second=2_200.0)
WORK_SECONDS = 2.0


def test_workers_join_die_leave_and_freeze_under_load(endpoints: Endpoints, tmp_path: Path) -> None:
    options = {"hosts_workers": 3, "vms_workers": 3, "sink_workers": 2, "tables": TABLES}
    late = ("hosts-3", "vms-3", "postgres-2")
    with FaultyLine(endpoints, tmp_path, **options) as line:
        crew = Crew(line.parts())
        for name in late:
            crew.hold(name)
        with crew, Load(line.kafka, line.topics, SHAPE) as load:
            crew.wait_ready(*(name for name in crew.names if name not in late))
            load.resume()
            time.sleep(WORK_SECONDS)
            _join(crew, late)
            _die_in_a_rebalance(crew)
            _freeze(crew, "vms-2", "hosts-2", "postgres-1")
            _leave(crew, "vms-1", "hosts-1")
            line.settle(load)
            account = line.account(load)
    print(crew.ended, account)
    assert account.clean, account


def _join(crew: Crew, names: tuple[str, ...]) -> None:
    for name in names:
        crew.hold(name, False)
    crew.wait_ready()
    time.sleep(WORK_SECONDS)


def _die_in_a_rebalance(crew: Crew) -> None:
    """One worker is killed in the rebalance that the end of another causes, with inputs in flight."""
    for dies, leaves in (("vms-3", "vms-2"), ("hosts-3", "hosts-2")):
        stage = dies.partition("-")[0]
        crew.arm(dies, f"{stage}.rebalance.revoked:kill:2")
        crew.signal(dies)
        crew.until(lambda dies=dies: crew.running(dies) and crew.ready(dies), 90.0, f"{dies} ready")  # type: ignore[misc]
        # Its static membership ends with the session: the others share its partitions then.
        crew.hold(leaves)
        crew.signal(leaves)
    for dies, leaves in (("vms-3", "vms-2"), ("hosts-3", "hosts-2")):
        crew.until(lambda dies=dies: crew.fired(dies) or crew.last(dies).fired, 60.0, f"{dies} in a rebalance")  # type: ignore[misc]
        crew.hold(leaves, False)
    crew.wait_ready()
    time.sleep(WORK_SECONDS)


def _freeze(crew: Crew, *names: str) -> None:
    """Stopped past the session: what they were is not theirs any more when they wake up."""
    lives = {name: crew.lives(name) for name in names}
    for name in names:
        crew.signal(name, signal.SIGSTOP)
    time.sleep(SESSION_SECONDS + 2.0)
    for name in names:
        crew.signal(name, signal.SIGCONT)
    for name in names:
        if not name.startswith("postgres"):
            crew.until(lambda name=name: crew.lives(name) > lives[name], 30.0, f"{name} fences itself")  # type: ignore[misc]
            assert crew.last(name).code == ExitCode.SELF_FENCED
    crew.wait_ready()
    time.sleep(WORK_SECONDS)


def _leave(crew: Crew, *names: str) -> None:
    """Asked to stop, for good: the others go on with their partitions."""
    lives = {name: crew.lives(name) for name in names}
    for name in names:
        crew.hold(name)
        crew.signal(name, signal.SIGTERM)
    for name in names:
        crew.until(lambda name=name: crew.lives(name) > lives[name], 30.0, f"{name} stops")  # type: ignore[misc]
        assert crew.last(name).code == ExitCode.OK
    time.sleep(SESSION_SECONDS)
