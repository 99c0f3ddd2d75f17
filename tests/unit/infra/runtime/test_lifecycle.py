"""The life of a process: order, retries, signals, exit codes and the deadlines nothing outlives."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import uvloop

from infra.runtime.errors import ConfigError, ExitCode, NeighbourUnreachable, OffsetHole
from infra.runtime.lifecycle import Backoff, LifecycleSettings, Process, Stop, run_service

UNREACHABLE = NeighbourUnreachable("no answer", where="Kafka at h:1", advice="start it")
QUICK = Backoff(first_seconds=0.001, cap_seconds=0.002)


class _Recorded:
    """A service that notes what it was told, and does what the test says."""

    def __init__(
        self,
        *,
        setups: list[Exception] | None = None,
        run: Callable[[Stop], None] | None = None,
        close: Callable[[], None] | None = None,
    ) -> None:
        self.calls: list[str] = []
        self._setups = setups or []
        self._run = run
        self._close = close

    def setup(self) -> None:
        self.calls.append("setup")
        if self._setups:
            raise self._setups.pop(0)

    def run(self, stop: Stop) -> None:
        self.calls.append("run")
        if self._run is not None:
            self._run(stop)

    def close(self) -> None:
        self.calls.append("close")
        if self._close is not None:
            self._close()


def _raise(error: Exception) -> Callable[[Stop], None]:
    def run(stop: Stop) -> None:
        raise error

    return run


def test_a_service_is_set_up_run_and_closed_in_order() -> None:
    service = _Recorded()
    assert run_service(service) is ExitCode.OK
    assert service.calls == ["setup", "run", "close"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OffsetHole("offset 4 is missing"), ExitCode.OFFSET_HOLE),
        (ConfigError("bad"), ExitCode.CONFIG),
        (UNREACHABLE, ExitCode.UNREACHABLE),
        (ZeroDivisionError(), ExitCode.INTERNAL),
    ],
)
def test_a_failure_ends_with_its_code_and_still_closes(error: Exception, code: ExitCode) -> None:
    service = _Recorded(run=_raise(error))
    assert run_service(service) is code
    assert service.calls == ["setup", "run", "close"]


def test_a_failed_close_does_not_hide_the_first_failure() -> None:
    def broken() -> None:
        raise RuntimeError("cannot close")

    assert run_service(_Recorded(close=broken)) is ExitCode.INTERNAL
    assert run_service(_Recorded(run=_raise(OffsetHole("x")), close=broken)) is ExitCode.OFFSET_HOLE


def test_set_up_is_tried_again_while_a_neighbour_is_unreachable() -> None:
    service = _Recorded(setups=[UNREACHABLE, UNREACHABLE])
    assert run_service(service, backoff=QUICK) is ExitCode.OK
    assert service.calls == ["setup", "setup", "setup", "run", "close"]


def test_bad_settings_are_not_tried_again() -> None:
    service = _Recorded(setups=[ConfigError("bad")])
    assert run_service(service, backoff=QUICK) is ExitCode.CONFIG
    assert service.calls == ["setup", "close"]


def _at(*readings: float) -> Process:
    clock = iter(readings)
    return Process(now=lambda: next(clock), random=lambda: 0.5, exit=lambda code: None)


def test_it_gives_up_after_the_deadline_with_its_own_code() -> None:
    service = _Recorded(setups=[UNREACHABLE] * 10)
    settings = LifecycleSettings(give_up_after_seconds=60.0)
    assert run_service(service, settings=settings, backoff=QUICK, process=_at(0, 20, 59, 61)) is ExitCode.UNREACHABLE
    assert service.calls == ["setup", "setup", "setup", "close"]


def test_zero_never_gives_up() -> None:
    service = _Recorded(setups=[UNREACHABLE] * 3)
    settings = LifecycleSettings(give_up_after_seconds=0)
    assert run_service(service, settings=settings, backoff=QUICK, process=_at(0, 1e6, 2e6, 3e6)) is ExitCode.OK
    assert service.calls.count("setup") == 4


def test_a_stop_during_the_wait_for_a_neighbour_ends_in_order() -> None:
    stop = Stop()
    service = _Recorded(setups=[UNREACHABLE] * 2)

    def stop_while_computing_the_wait() -> float:
        stop.set()
        return 0.5

    slow = Backoff(first_seconds=3600.0, cap_seconds=3600.0)
    settings = LifecycleSettings(give_up_after_seconds=0)
    process = Process(random=stop_while_computing_the_wait, exit=lambda code: None)
    assert run_service(service, settings=settings, backoff=slow, stop=stop, process=process) is ExitCode.OK
    assert service.calls == ["setup", "close"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_in_order_and_handlers_are_given_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def run(stop: Stop) -> None:
        os.kill(os.getpid(), number)
        assert stop.wait(5.0)

    service = _Recorded(run=run)
    assert run_service(service) is ExitCode.OK
    assert service.calls == ["setup", "run", "close"]
    assert signal.getsignal(number) is before


def test_what_does_not_stop_in_time_is_cut_off() -> None:
    ended: list[int] = []
    cut_off = threading.Event()

    def leave(code: int) -> None:
        ended.append(code)
        cut_off.set()

    def run(stop: Stop) -> None:
        stop.set()
        assert cut_off.wait(5.0)

    settings = LifecycleSettings(stop_deadline_seconds=0.02)
    run_service(_Recorded(run=run), settings=settings, process=Process(exit=leave))
    assert ended == [ExitCode.INTERNAL]


def test_a_hanging_close_after_a_failure_is_cut_off_with_the_code_of_the_failure() -> None:
    ended: list[int] = []
    cut_off = threading.Event()

    def leave(code: int) -> None:
        ended.append(code)
        cut_off.set()

    def hang() -> None:
        assert cut_off.wait(5.0)

    service = _Recorded(run=_raise(OffsetHole("x")), close=hang)
    run_service(service, settings=LifecycleSettings(stop_deadline_seconds=0.02), process=Process(exit=leave))
    assert ended == [ExitCode.OFFSET_HOLE]


def test_callbacks_come_once_whenever_they_were_registered() -> None:
    stop = Stop()
    called: list[str] = []
    stop.on_set(lambda: called.append("before"))
    stop.set()
    stop.set()
    stop.on_set(lambda: called.append("after"))
    assert called == ["before", "after"]


HUNG = """
import time
from infra.runtime.lifecycle import LifecycleSettings, run_service

class Hung:
    def setup(self): pass
    def run(self, stop):
        print("running", flush=True)
        while True:
            time.sleep(60)
    def close(self): pass

raise SystemExit(run_service(Hung(), settings=LifecycleSettings(stop_deadline_seconds={deadline})))
"""


@pytest.fixture
def hung(request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], Iterator[str]]]:
    """A process that runs and does not stop by itself, and its output line by line."""
    program = HUNG.format(deadline=request.param)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        try:
            assert any("running" in line for line in lines)
            yield process, lines
        finally:
            process.kill()


@pytest.mark.parametrize("hung", [0.1], indirect=True)
def test_a_hung_process_ends_by_its_deadline(hung: tuple[subprocess.Popen[str], Iterator[str]]) -> None:
    process, _ = hung
    process.terminate()
    assert process.wait(timeout=20) == ExitCode.INTERNAL


@pytest.mark.parametrize("hung", [60], indirect=True)
def test_ctrl_c_again_ends_a_hung_process_at_once(hung: tuple[subprocess.Popen[str], Iterator[str]]) -> None:
    process, lines = hung
    process.send_signal(signal.SIGINT)
    assert any("stop_requested" in line for line in lines)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == ExitCode.INTERRUPTED


def test_the_same_ctrl_c_passed_on_by_a_supervisor_and_a_late_sigterm_force_nothing() -> None:
    ended: list[int] = []
    forced = threading.Event()

    def leave(code: int) -> None:
        ended.append(code)
        forced.set()

    def run(stop: Stop) -> None:
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert forced.wait(5.0)

    set_up, first, passed_on, late, later, insisted = 0.0, 10.0, 10.5, 12.0, 13.0, 14.0
    readings = iter((set_up, first, passed_on, late, later, insisted))
    run_service(_Recorded(run=run), process=Process(now=lambda: next(readings), exit=leave))
    assert ended == [ExitCode.INTERRUPTED]
    assert next(readings, None) is None


def test_a_signal_reaches_a_loop_that_took_the_wake_up_descriptor() -> None:
    async def until_stopped(stop: Stop) -> None:
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        stop.on_set(lambda: loop.call_soon_threadsafe(stopped.set))
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(5.0):
            await stopped.wait()

    def run(stop: Stop) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(until_stopped(stop))

    assert run_service(_Recorded(run=run)) is ExitCode.OK
