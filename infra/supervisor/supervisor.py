"""Keeps the parts running: starts them tier by tier, restarts what ends, stops them in order.

It knows nothing of Kafka or tables: a part that dies is started again with back-off, since every part recovers from
its own log; a part that says a restart is useless is left alone and said so.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from infra.runtime.backoff import Backoff, Retry
from infra.runtime.errors import ExitCode
from infra.supervisor.child import Child, LineSink
from infra.supervisor.health import is_ready
from infra.supervisor.part import Part, PartState, Phase, describe_exit, worth_restarting

_POLL_SECONDS = 0.05
_TIER_SECONDS = 30.0
"""How long a tier may keep the next from starting; a part that is not ready by then must not hold back the others."""
RESTART = Backoff(first_seconds=0.2, cap_seconds=15.0, calm_seconds=60.0)
"""The first restart comes within a fifth of a second: a line that stands still costs more than one start in vain."""
_PROVEN_SECONDS = 10.0
"""A part that ran for so long works: when it ends, its next failure is a first one again."""


class _Slot:
    """One part over all its lives."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.retry = Retry(RESTART)
        self.child: Child | None = None
        self.phase = Phase.STOPPED
        self.restarts = -1
        self.started_at = 0.0
        self.last_exit: int | None = None

    def state(self) -> PartState:
        return PartState(
            name=self.part.name,
            phase=self.phase,
            pid=self.child.pid if self.child is not None and self.phase is Phase.RUNNING else None,
            restarts=max(0, self.restarts),
            last_exit=self.last_exit,
            http_port=self.part.http_port,
        )


class Supervisor:
    """Runs parts until `stop` is set. Call `run` from the main thread."""

    def __init__(
        self,
        parts: Sequence[Part],
        lines: LineSink,
        *,
        stop_seconds: float = 20.0,
        states_file: Path | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`states_file` receives the parts' states as JSON whenever one changes, for `deltavisor status`."""
        self._slots = [_Slot(part) for part in sorted(parts, key=lambda part: part.tier)]
        self._lines = lines
        self._stop_seconds = stop_seconds
        self._states_file = states_file
        self._written: list[PartState] | None = None
        self._tier = min((slot.part.tier for slot in self._slots), default=0)
        self._tier_since = now()
        self._now = now

    def states(self) -> list[PartState]:
        """The parts as they are now, in start order. Safe from any thread."""
        return [slot.state() for slot in self._slots]

    def run(self, stop: threading.Event) -> ExitCode:
        """Supervise until `stop` is set, or until no part is left that a restart could help.

        Returns OK, or the exit code of the first part that refused to go on.
        """
        try:
            while not stop.is_set():
                for slot in self._slots:
                    if slot.part.tier <= self._tier:
                        self._look_after(slot)
                self._publish()
                self._open_next_tier()
                if all(slot.phase is Phase.REFUSED for slot in self._slots):
                    break
                stop.wait(_POLL_SECONDS)
        finally:
            self._stop_all()
            self._publish()
        refused = [slot for slot in self._slots if slot.phase is Phase.REFUSED]
        return ExitCode(refused[0].last_exit or 0) if refused else ExitCode.OK

    def _open_next_tier(self) -> None:
        """Agents begin to speak once somebody listens: what starts later finds what it writes to already reading."""
        later = [slot.part.tier for slot in self._slots if slot.part.tier > self._tier]
        if not later:
            return
        now = self._now()
        if now - self._tier_since < _TIER_SECONDS and not all(
            slot.phase is Phase.REFUSED or is_ready(slot.state())
            for slot in self._slots
            if slot.part.tier == self._tier
        ):
            return
        self._tier, self._tier_since = min(later), now

    def _look_after(self, slot: _Slot) -> None:
        if slot.phase is Phase.REFUSED:
            return
        if slot.child is None:
            if slot.retry.due(self._now()):
                slot.restarts += 1
                slot.started_at = self._now()
                slot.child = Child(slot.part, self._lines)
                slot.phase = Phase.RUNNING
            return
        code = slot.child.returncode()
        if code is None:
            return
        slot.child, slot.last_exit = None, code
        if worth_restarting(code):
            slot.phase = Phase.WAITING
            if self._now() - slot.started_at >= _PROVEN_SECONDS:
                slot.retry.succeeded()
            delay = slot.retry.failed(self._now(), random.random)
            self._say(slot, f"{describe_exit(code)}; starting it again in {delay:.1f} s")
        else:
            slot.phase = Phase.REFUSED
            self._say(slot, f"{describe_exit(code)}; a restart would not help, read its last lines above")

    def _stop_all(self) -> None:
        """Tier by tier from the last to be started: agents first, then stages, then sinks, each drained."""
        for tier in sorted({slot.part.tier for slot in self._slots}, reverse=True):
            running = [slot for slot in self._slots if slot.part.tier == tier and slot.child is not None]
            deadline = self._now() + self._stop_seconds
            for slot in running:
                if slot.child is not None:
                    slot.child.terminate()
            for slot in running:
                self._end(slot, deadline)

    def _end(self, slot: _Slot, deadline: float) -> None:
        child = slot.child
        if child is None:
            return
        code = child.wait(max(0.0, deadline - self._now()))
        if code is None:
            self._say(slot, f"did not stop in {self._stop_seconds:.0f} s and is ended by force")
        slot.last_exit = child.kill()
        slot.child, slot.phase = None, Phase.STOPPED

    def _say(self, slot: _Slot, text: str) -> None:
        self._lines("supervisor", f"{slot.part.name}: {text}")

    def _publish(self) -> None:
        if self._states_file is None:
            return
        states = self.states()
        if states == self._written:
            return
        fresh = self._states_file.with_suffix(".new")
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(states)))
        fresh.replace(self._states_file)
        self._written = states
