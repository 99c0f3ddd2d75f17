"""A thread that ends the process when something that must move does not.

A hung loop cannot end itself, and a supervisor restarts only what ends. So the watchdog leaves a stack dump of every
thread on stderr and exits with :attr:`ExitCode.WATCHDOG`, without clean-up: clean-up is what may be hanging.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable

from infra.runtime.errors import ExitCode
from infra.runtime.log import get_logger

Probe = Callable[[], str | None]
"""Says what is stuck, or None; called about once a second from the watchdog's thread, so it must never block."""

_log = get_logger(__name__)


class Heartbeat:
    """One thing that must give a sign of life at least every ``limit_seconds``. ``beat`` takes no lock."""

    __slots__ = ("_beat_at", "_now", "limit_seconds", "name")

    def __init__(self, name: str, limit_seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.limit_seconds = limit_seconds
        self._now = now
        self._beat_at = now()

    def beat(self) -> None:
        """Say that the owner is alive. Any thread."""
        self._beat_at = self._now()

    def age_seconds(self) -> float:
        """Time since the last beat, or since the heartbeat was made."""
        return self._now() - self._beat_at


class Watchdog:
    """Watches heartbeats and probes from :meth:`start` to :meth:`close`.

    When the watchdog's own thread stood still (a suspended process or machine), nobody could beat: every heartbeat is
    then given its limit anew, instead of being blamed. Whether the process still owns its work is the fence's question.
    """

    def __init__(
        self,
        *,
        interval_seconds: float = 1.0,
        now: Callable[[], float] = time.monotonic,
        exit_process: Callable[[int], object] = os._exit,
    ) -> None:
        self._interval_seconds = interval_seconds
        self._now = now
        self._exit_process = exit_process
        self._guard = threading.Lock()
        self._heartbeats: list[Heartbeat] = []
        self._probes: list[Probe] = []
        self._looked_at = now()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def heartbeat(self, name: str, *, limit_seconds: float) -> Heartbeat:
        """A new heartbeat, watched from now on."""
        heartbeat = Heartbeat(name, limit_seconds, self._now)
        with self._guard:
            self._heartbeats.append(heartbeat)
        return heartbeat

    def release(self, heartbeat: Heartbeat) -> None:
        """Stop watching a heartbeat whose owner has ended in order."""
        with self._guard:
            self._heartbeats.remove(heartbeat)

    def probe(self, probe: Probe) -> None:
        """Ask this too, from now on."""
        with self._guard:
            self._probes.append(probe)

    def start(self) -> None:
        """Begin to watch; once."""
        self._looked_at = self._now()
        self._thread.start()

    def close(self) -> None:
        """Stop watching; safe to repeat, and before ``start``."""
        self._closed.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def stuck(self) -> str | None:
        """What is stuck now, or None. Called by the watchdog's thread at every interval."""
        now = self._now()
        stood_still = now - self._looked_at > max(2 * self._interval_seconds, self._interval_seconds + 1.0)
        self._looked_at = now
        with self._guard:
            heartbeats, probes = list(self._heartbeats), list(self._probes)
        if stood_still:
            for heartbeat in heartbeats:
                heartbeat.beat()
            return None
        for heartbeat in heartbeats:
            age = heartbeat.age_seconds()
            if age > heartbeat.limit_seconds:
                return f"{heartbeat.name} gave no sign of life for {age:.1f} s, limit {heartbeat.limit_seconds:g} s"
        return next((reason for probe in probes if (reason := _ask(probe))), None)

    def _watch(self) -> None:
        while not self._closed.wait(self._interval_seconds):
            if (reason := self.stuck()) is not None:
                self._end(reason)
                return

    def _end(self, reason: str) -> None:
        _log.error("watchdog_expired", reason=reason, exit_code=int(ExitCode.WATCHDOG))
        if sys.__stderr__ is not None:
            faulthandler.dump_traceback(file=sys.__stderr__, all_threads=True)
        self._exit_process(int(ExitCode.WATCHDOG))


def _ask(probe: Probe) -> str | None:
    """A probe that fails counts as stuck: a watchdog that cannot see must not go on as if all were well."""
    try:
        return probe()
    except Exception as error:
        _log.exception("watchdog_probe_failed")
        return f"a probe failed with {type(error).__name__}"
