"""The watchdog: what it calls stuck, what it forgives, and that it really ends a process."""

from __future__ import annotations

import subprocess
import sys
import time

from infra.runtime.watchdog import Watchdog


class _Clock:
    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def _watchdog(clock: _Clock) -> Watchdog:
    return Watchdog(now=clock, exit_process=lambda code: None)


def _after(watchdog: Watchdog, clock: _Clock, seconds: int) -> str | None:
    """What the watchdog says after so many seconds, having looked once in each."""
    stuck = None
    for _ in range(seconds):
        clock.at += 1.0
        stuck = watchdog.stuck()
        if stuck:
            break
    return stuck


def test_a_silent_heartbeat_is_named_with_its_age() -> None:
    clock = _Clock()
    watchdog = _watchdog(clock)
    loop = watchdog.heartbeat("event loop", limit_seconds=5.0)
    watchdog.heartbeat("outbox", limit_seconds=60.0)
    assert _after(watchdog, clock, 5) is None
    loop.beat()
    assert _after(watchdog, clock, 5) is None
    assert _after(watchdog, clock, 1) == "event loop gave no sign of life for 6.0 s, limit 5 s"


def test_a_released_heartbeat_is_forgotten() -> None:
    clock = _Clock()
    watchdog = _watchdog(clock)
    watchdog.release(watchdog.heartbeat("loader", limit_seconds=1.0))
    assert _after(watchdog, clock, 10) is None


def test_a_probe_can_report_stuck_progress() -> None:
    clock = _Clock()
    watchdog = _watchdog(clock)
    answers: list[str | None] = [None, "applied offset stands at 41 with 900 records waiting"]
    watchdog.probe(lambda: answers.pop(0))
    assert _after(watchdog, clock, 1) is None
    assert _after(watchdog, clock, 1) == "applied offset stands at 41 with 900 records waiting"


def test_a_probe_that_fails_counts_as_stuck() -> None:
    def broken() -> str | None:
        raise KeyError("partition")

    clock = _Clock()
    watchdog = _watchdog(clock)
    watchdog.probe(broken)
    assert _after(watchdog, clock, 1) == "a probe failed with KeyError"


def test_after_standing_still_itself_it_gives_every_heartbeat_its_limit_anew() -> None:
    clock = _Clock()
    watchdog = _watchdog(clock)
    watchdog.heartbeat("event loop", limit_seconds=5.0)
    clock.at += 60.0
    assert watchdog.stuck() is None
    assert _after(watchdog, clock, 5) is None
    assert _after(watchdog, clock, 1) is not None


def test_it_ends_a_hung_process_with_its_code_and_leaves_the_stacks() -> None:
    program = """
import time
from infra.runtime.watchdog import Watchdog

def hung():
    time.sleep(60)

watchdog = Watchdog(interval_seconds=0.05)
watchdog.heartbeat("loop", limit_seconds=0.1)
watchdog.start()
hung()
"""
    started_at = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 72
    assert time.monotonic() - started_at < 20
    assert "watchdog_expired" in ended.stdout + ended.stderr
    assert "in hung" in ended.stderr


def test_closed_it_ends_nothing() -> None:
    ended: list[int] = []
    watchdog = Watchdog(interval_seconds=0.01, exit_process=ended.append)
    watchdog.heartbeat("loop", limit_seconds=0.0)
    watchdog.close()
    watchdog.close()
    watchdog = Watchdog(interval_seconds=0.01, exit_process=ended.append)
    heartbeat = watchdog.heartbeat("loop", limit_seconds=30.0)
    watchdog.start()
    heartbeat.beat()
    watchdog.close()
    assert ended == []
