"""The real worker processes of a line, started, armed, killed and started again by a test.

What `infra.supervisor` does for users, without its back-off: here a part that dies is started again at once, so that
many deaths fit into a test.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from infra.runtime.failpoints import VARIABLE
from infra.supervisor.child import Child
from infra.supervisor.health import is_ready
from infra.supervisor.part import Part, PartState, Phase, worth_restarting

LOOK_SECONDS = 0.02
KEPT_LINES = 400


class Ended(NamedTuple):
    """One life of a part."""

    part: str
    code: int
    armed: str
    fired: bool
    lived_seconds: float


class _Slot:
    def __init__(self, part: Part) -> None:
        self.part = part
        self.child: Child | None = None
        self.armed = ""
        self.next_armed = ""
        self.fired = False
        self.held = False
        self.may_refuse = False
        self.started_at = 0.0


class Crew:
    """Keeps parts running from a thread of its own; use as a context."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._slots = {part.name: _Slot(part) for part in parts}
        self._guard = threading.RLock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="crew")
        self.ended: list[Ended] = []
        self.said: deque[str] = deque(maxlen=KEPT_LINES)
        self.errors: deque[str] = deque(maxlen=KEPT_LINES)
        """Lines of the level error."""
        self.refused: list[str] = []
        """Parts that ended with a code after which no restart helps."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        for slot in self._slots.values():
            if slot.child is not None:
                self._signal(slot, signal.SIGCONT)
                slot.child.kill()
        if error is not None:
            print("\n".join(self.said))

    @property
    def names(self) -> list[str]:
        """Names of the parts."""
        return list(self._slots)

    def arm(self, name: str, failpoints: str) -> None:
        """The next process of this part starts with these failpoints, and only that one."""
        with self._guard:
            self._slots[name].next_armed = failpoints

    def signal(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a part's process, if there is one now."""
        with self._guard:
            self._signal(self._slots[name], number)

    def hold(self, name: str, held: bool = True) -> None:
        """Do not start this part again when it ends, or do so from now on."""
        with self._guard:
            self._slots[name].held = held

    def become(self, name: str, argv: Sequence[str]) -> None:
        """From its next start on this part is this command."""
        with self._guard:
            slot = self._slots[name]
            slot.part = msgspec.structs.replace(slot.part, argv=tuple(argv))

    def expect_refusal(self, name: str) -> None:
        """The part will end with a code after which no restart helps; it is then held, as a supervisor does."""
        with self._guard:
            self._slots[name].may_refuse = True

    def lives(self, name: str) -> int:
        """How many processes of this part have ended."""
        with self._guard:
            return sum(1 for end in self.ended if end.part == name)

    def last(self, name: str) -> Ended:
        """How the last ended process of this part ended."""
        with self._guard:
            return next(end for end in reversed(self.ended) if end.part == name)

    def fired(self, name: str) -> bool:
        """Whether the armed point of the running process was hit."""
        with self._guard:
            return self._slots[name].fired

    def at_rest(self, name: str, seconds: float) -> bool:
        """Whether the process has lived for so long, and has no failpoint before it."""
        with self._guard:
            slot = self._slots[name]
            lived = time.monotonic() - slot.started_at
            return slot.child is not None and not slot.next_armed and lived > seconds

    def running(self, name: str) -> bool:
        """Whether there is a process."""
        with self._guard:
            return self._slots[name].child is not None

    def ready(self, name: str) -> bool:
        """Whether the process says at /readyz that it works."""
        slot = self._slots[name]
        phase = Phase.RUNNING if slot.child is not None else Phase.WAITING
        return is_ready(
            PartState(name=name, phase=phase, pid=None, restarts=0, last_exit=None, http_port=slot.part.http_port)
        )

    def wait_ready(self, *names: str, seconds: float = 90.0) -> None:
        """Until these parts are ready, or all."""
        for name in names or tuple(self._slots):
            self.until(lambda name=name: self.ready(name), seconds, f"{name} ready")  # type: ignore[misc]

    def until(self, holds: Callable[[], bool], seconds: float, what: str) -> None:
        """Until something holds; AssertionError when it does not, or when a part refused to go on."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert self.refused == [], self.refused
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
            time.sleep(LOOK_SECONDS)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            with self._guard:
                for slot in self._slots.values():
                    self._look_after(slot)

    def _look_after(self, slot: _Slot) -> None:
        if slot.child is None:
            if not slot.held and slot.part.name not in self.refused:
                self._start(slot)
            return
        code = slot.child.returncode()
        if code is None:
            return
        slot.child.kill()
        lived = time.monotonic() - slot.started_at
        self.ended.append(Ended(slot.part.name, code, slot.armed, slot.fired, lived))
        slot.child = None
        if worth_restarting(code):
            return
        if slot.may_refuse:
            slot.may_refuse, slot.held = False, True
        else:
            self.refused.append(f"{slot.part.name} ended with {code}")

    def _start(self, slot: _Slot) -> None:
        slot.armed, slot.next_armed, slot.fired = slot.next_armed, "", False
        environment: Mapping[str, str] = {**slot.part.environment, VARIABLE: slot.armed}
        slot.child = Child(msgspec.structs.replace(slot.part, environment=environment), self._heard)
        slot.started_at = time.monotonic()

    def _heard(self, name: str, line: str) -> None:
        self.said.append(f"{name} | {line}")
        if '"level": "error"' in line:
            self.errors.append(f"{name} | {line}")
        if '"failpoint_fired"' in line:
            self._slots[name].fired = True

    def _signal(self, slot: _Slot, number: int) -> None:
        if slot.child is not None and slot.child.returncode() is None:
            os.kill(slot.child.pid, number)
