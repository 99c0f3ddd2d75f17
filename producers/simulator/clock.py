"""A clock that stands still until it is moved: simulated hours pass in milliseconds, and the same every time."""

from producers.agent.clock import Instant
from producers.simulator.fleet import Fleet

EPOCH_WALL_NS = 1_767_225_600_000_000_000
"""2026-01-01T00:00:00Z; where virtual time begins."""


class VirtualClock:
    """Time as an argument of tests. Satisfies `Clock`."""

    def __init__(self, wall_ns: int = EPOCH_WALL_NS, monotonic_ns: int = 1_000_000_000) -> None:
        self._now = Instant(wall_ns, monotonic_ns)

    def now(self) -> Instant:
        """The present virtual moment."""
        return self._now

    def move(self, seconds: float) -> Instant:
        """Let this much time pass."""
        self._now = self._now.later(seconds)
        return self._now

    def move_to(self, monotonic_ns: int) -> Instant:
        """Let time pass until then; a moment that is over leaves the clock where it is."""
        passed = max(0, monotonic_ns - self._now.monotonic_ns)
        self._now = Instant(self._now.wall_ns + passed, self._now.monotonic_ns + passed)
        return self._now


def elapse(fleet: Fleet, clock: VirtualClock, seconds: float) -> None:
    """Let virtual time pass for a fleet: every scheduled step happens at its own moment, in order."""
    end = clock.now().later(seconds).monotonic_ns
    while (due := fleet.next_due_ns()) is not None and due <= end:
        clock.move_to(due)
        fleet.advance()
    clock.move_to(end)
