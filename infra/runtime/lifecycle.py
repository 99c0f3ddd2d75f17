"""The life of a process: ``setup``, ``run(stop)``, ``close``, and the one function that drives them.

Only ``main`` calls :func:`run_service`; nothing else handles signals or exit codes. What can hang is bounded by
deadlines kept in a daemon thread, since a stop during a rebalance was seen to hang for a minute.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import random as system_random
from types import FrameType
from typing import Protocol

import msgspec
from pydantic import Field

from infra.runtime.backoff import Backoff, Random, Retry
from infra.runtime.errors import DeltavisorError, ExitCode, TransientError
from infra.runtime.log import get_logger
from infra.runtime.settings import SubSettings

__all__ = ["Backoff", "LifecycleSettings", "Process", "Random", "Retry", "Service", "Stop", "run_service"]

_log = get_logger(__name__)


class LifecycleSettings(SubSettings):
    """How long a process tries to start, and how long it may take to stop."""

    give_up_after_seconds: float = Field(default=60.0, ge=0)
    """How long to try to reach a neighbour at start; 0 tries for ever."""
    stop_deadline_seconds: float = Field(default=15.0, gt=0)
    """From the signal to the end; what is not done by then is cut off, and done again after the restart."""


class Stop(threading.Event):
    """Set when the process is asked to stop. Safe from any thread, but not from a signal handler: it takes locks."""

    def __init__(self) -> None:
        super().__init__()
        self._guard = threading.Lock()
        self._callbacks: list[Callable[[], object]] = []

    def on_set(self, callback: Callable[[], object]) -> None:
        """Call back once when set, at once if it is; for loops that cannot wait on an event of threads.

        The callback runs in the thread that sets, so it only hands over, as ``loop.call_soon_threadsafe`` does.
        """
        with self._guard:
            if not self.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def set(self) -> None:
        with self._guard:
            super().set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


class Service(Protocol):
    """Every long-lived thing has these three methods and nothing else public."""

    def setup(self) -> None:
        """Validate, connect, prove it works. Called again after a TransientError, until a deadline."""

    def run(self, stop: Stop) -> None:
        """Work until ``stop`` is set, then return with everything committed or nothing half done."""

    def close(self) -> None:
        """Give everything back. Called once by the process, but safe to repeat and after a failed set-up."""


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """What the operating system gives a process, as arguments, so that tests can be one."""

    now: Callable[[], float] = time.monotonic
    random: Random = system_random
    exit: Callable[[int], object] = os._exit
    """Ends the process at once, without clean-up: the only way out of a hung thread."""


def run_service(
    service: Service,
    *,
    settings: LifecycleSettings | None = None,
    backoff: Backoff | None = None,
    stop: Stop | None = None,
    process: Process | None = None,
) -> ExitCode:
    """Drive a service through its life and return the exit code for ``main``.

    SIGTERM and SIGINT set ``stop``; Ctrl-C once more, a second later, ends the process at once (130). Set-up is tried
    again while a neighbour is unreachable. Every failure is logged here, once, as ``service_failed``. Signals work in
    the main thread alone; elsewhere the service runs without them.
    """
    settings = settings or LifecycleSettings()
    process = process or Process()
    stop = stop or Stop()
    deadline = _HardDeadline(settings.stop_deadline_seconds, process)
    stop.on_set(deadline.start)
    with _signals(stop, process):
        code = _live(service, settings, backoff or Backoff(), stop, process)
        deadline.start(code)
        try:
            service.close()
        except Exception:
            _log.exception("close_failed")
            code = code or ExitCode.INTERNAL
        deadline.cancel()
    _log.info("service_stopped", exit_code=int(code))
    return code


def _live(service: Service, settings: LifecycleSettings, backoff: Backoff, stop: Stop, process: Process) -> ExitCode:
    try:
        if _set_up(service, settings, Retry(backoff), stop, process):
            _log.info("service_ready")
            service.run(stop)
    except DeltavisorError as error:
        _log.error("service_failed", error=str(error), error_type=type(error).__name__, exit_code=int(error.exit_code))
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception:
        _log.exception("service_failed", error_type="unforeseen", exit_code=int(ExitCode.INTERNAL))
        return ExitCode.INTERNAL
    return ExitCode.OK


def _set_up(service: Service, settings: LifecycleSettings, retry: Retry, stop: Stop, process: Process) -> bool:
    """True once the service is set up, False when asked to stop before. Raises the last error when giving up."""
    started_at = process.now()
    while not stop.is_set():
        try:
            service.setup()
        except TransientError as error:
            now = process.now()
            delay = retry.failed(now, process.random, at_least_seconds=error.retry_after_seconds or 0.0)
            left = settings.give_up_after_seconds - (now - started_at)
            if settings.give_up_after_seconds and left <= 0:
                raise
            if settings.give_up_after_seconds:
                delay = min(delay, left)
            _log.warning(
                "setup_retry",
                error=str(error),
                attempt=retry.failures,
                next_try_seconds=round(delay, 2),
                give_up_seconds=round(left, 1) if settings.give_up_after_seconds else None,
            )
            stop.wait(delay)
        else:
            return True
    return False


class _HardDeadline:
    """Ends the process when it has not ended by itself in time. Starting twice keeps the first deadline."""

    def __init__(self, seconds: float, process: Process) -> None:
        self._seconds = seconds
        self._process = process
        self._code = ExitCode.INTERNAL
        self._timer: threading.Timer | None = None
        self._guard = threading.Lock()

    def start(self, code: ExitCode = ExitCode.OK) -> None:
        """Begin to count. A failure known by now is what the process will be said to have ended with."""
        with self._guard:
            if code is not ExitCode.OK:
                self._code = code
            if self._timer is None:
                self._timer = threading.Timer(self._seconds, self._expire)
                self._timer.daemon = True
                self._timer.start()

    def cancel(self) -> None:
        with self._guard:
            if self._timer is not None:
                self._timer.cancel()

    def _expire(self) -> None:
        _log.error("stop_deadline_passed", deadline_seconds=self._seconds, exit_code=int(self._code))
        _leave(self._process, self._code)


_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_END_OF_SIGNALS = 0
_INSISTED_AFTER_SECONDS = 1.0
"""A terminal and a supervisor may both pass on the same Ctrl-C; a human who insists is slower."""


@contextmanager
def _signals(stop: Stop, process: Process) -> Iterator[None]:
    """Turn SIGTERM and SIGINT into ``stop``, in a thread that reads their numbers from a socket.

    A Python handler runs only between two instructions of the main thread: one that enters a long system call just
    then, or hangs in one, would see neither signal, and the deadline for stopping would never begin. The interpreter
    writes to the wake-up descriptor at once. An event loop may put its own in its place while it runs; it then calls
    the handler promptly, which passes the number on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def pass_on(number: int, frame: FrameType | None) -> None:
        current = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(current, warn_on_full_buffer=False)
        if current != writer.fileno():
            writer.send(bytes([number]))

    listener = threading.Thread(target=_listen, args=(reader, stop, process), name="signals", daemon=True)
    listener.start()
    descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    previous = {number: signal.signal(number, pass_on) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(descriptor)
        writer.send(bytes([_END_OF_SIGNALS]))
        listener.join()
        reader.close()
        writer.close()


def _listen(reader: socket.socket, stop: Stop, process: Process) -> None:
    stopped_at: float | None = None
    while (number := reader.recv(1)[0]) != _END_OF_SIGNALS:
        if number not in _STOP_SIGNALS:  # every signal with a handler comes here, such as a child's end
            continue
        now = process.now()
        if stopped_at is None:
            stopped_at = now
            _log.info("stop_requested", signal=signal.Signals(number).name)
            stop.set()
        elif number == signal.SIGINT and now - stopped_at > _INSISTED_AFTER_SECONDS:
            _log.warning("stop_forced", signal=signal.Signals(number).name)
            _leave(process, ExitCode.INTERRUPTED)


def _leave(process: Process, code: ExitCode) -> None:
    sys.stderr.flush()
    sys.stdout.flush()
    process.exit(int(code))
