"""The supervisor with real, tiny processes: restart, refusal, order of stopping, nothing left behind."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from infra.runtime.errors import ExitCode
from infra.supervisor.part import Part, PartState, Phase, worth_restarting
from infra.supervisor.supervisor import Supervisor

SLEEPER = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("bye", flush=True), sys.exit(0)))
print("up", flush=True)
time.sleep(60)
"""


def part(name: str, code: str, tier: int = 0) -> Part:
    return Part(name=name, argv=(sys.executable, "-c", code), tier=tier)


class Line:
    """Runs a supervisor beside the test and collects what its parts print."""

    def __init__(self, *parts: Part, states_file: Path | None = None) -> None:
        self.said: list[tuple[str, str]] = []
        self.stop = threading.Event()
        self.supervisor = Supervisor(
            parts, lambda name, line: self.said.append((name, line)), stop_seconds=5.0, states_file=states_file
        )
        self.code: ExitCode | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.code = self.supervisor.run(self.stop)

    def __enter__(self) -> "Line":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(timeout=15)
        assert not self.thread.is_alive()

    def state(self, name: str) -> PartState:
        return next(state for state in self.supervisor.states() if state.name == name)


def until(condition: Callable[[], bool], seconds: float = 8.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def test_a_killed_part_is_started_again() -> None:
    with Line(part("one", SLEEPER)) as line:
        until(lambda: ("one", "up") in line.said)
        first = line.state("one").pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        until(lambda: line.state("one").restarts == 1 and line.state("one").pid not in (None, first))
        assert any("killed by signal 9" in text for name, text in line.said if name == "supervisor")
    assert line.code is ExitCode.OK


def test_a_part_that_had_worked_is_started_again_at_once_however_often() -> None:
    said: list[str] = []
    worker = part("one", "import sys, time; time.sleep(0.4); sys.exit(70)")
    # A clock that runs forty times as fast: the part lived for longer than a part in a crash loop does.
    supervisor = Supervisor([worker], lambda name, line: said.append(line), now=lambda: time.monotonic() * 40)
    stop = threading.Event()
    thread = threading.Thread(target=supervisor.run, args=(stop,))
    thread.start()
    try:
        until(lambda: supervisor.states()[0].restarts == 6, seconds=40.0)
    finally:
        stop.set()
        thread.join(timeout=15)
    delays = [float(line.split(" again in ")[1].split(" ")[0]) for line in said if " again in " in line]
    assert len(delays) >= 6
    assert max(delays) <= 0.2


def test_a_part_that_refuses_is_left_alone_and_decides_the_exit_code(tmp_path: Path) -> None:
    with Line(
        part("good", SLEEPER), part("bad", "import sys; sys.exit(75)"), states_file=tmp_path / "parts.json"
    ) as line:
        until(lambda: line.state("bad").phase is Phase.REFUSED)
        assert line.state("good").phase is Phase.RUNNING
        states = msgspec.json.decode((tmp_path / "parts.json").read_bytes(), type=list[PartState])
        assert {state.name for state in states} == {"good", "bad"}
    assert line.code is ExitCode.TOPIC_MISMATCH
    assert line.state("bad").restarts == 0


def test_it_ends_when_nothing_is_left_to_restart() -> None:
    with Line(part("bad", "import sys; sys.exit(64)")) as line:
        line.thread.join(timeout=8)
        assert line.code is ExitCode.CONFIG


def test_later_tiers_are_stopped_first_and_nothing_is_left() -> None:
    with Line(part("sink", SLEEPER, tier=0), part("agent", SLEEPER, tier=1)) as line:
        until(lambda: {("sink", "up"), ("agent", "up")} <= set(line.said))
        pids = [state.pid for state in line.supervisor.states()]
    assert [name for name, text in line.said if text == "bye"] == ["agent", "sink"]
    for pid in pids:
        assert pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_one_that_ignores_the_request_is_ended_by_force() -> None:
    deaf = "import signal,time\nsignal.signal(15, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)"
    line = Line(part("deaf", deaf))
    line.supervisor._stop_seconds = 0.3
    with line:
        until(lambda: ("deaf", "up") in line.said)
    assert line.state("deaf").last_exit == -signal.SIGKILL


@pytest.mark.parametrize(
    ("code", "again"),
    [
        (0, True),
        (64, False),
        (69, True),
        (70, True),
        (73, True),
        (74, False),
        (77, False),
        (-9, True),
        (1, True),
        (2, False),
    ],
)
def test_which_ends_are_worth_a_restart(code: int, again: bool) -> None:
    assert worth_restarting(code) is again
