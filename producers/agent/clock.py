"""Time as a value: the wall clock that is shown and the monotonic one that is measured with, read together."""

import time
from typing import NamedTuple, Protocol


class Instant(NamedTuple):
    """One moment on both clocks, in ns. Differences are taken on `monotonic_ns` only."""

    wall_ns: int
    monotonic_ns: int

    def later(self, seconds: float) -> "Instant":
        """The moment this many seconds after; both clocks move alike."""
        delta = int(seconds * 1_000_000_000)
        return Instant(self.wall_ns + delta, self.monotonic_ns + delta)

    def seconds_since(self, earlier: "Instant") -> float:
        """Seconds from `earlier` to this moment."""
        return (self.monotonic_ns - earlier.monotonic_ns) / 1e9


class Clock(Protocol):
    """Where shells get the time; tests bring their own."""

    def now(self) -> Instant:
        """The present moment."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> Instant:
        """The present moment."""
        return Instant(time.time_ns(), time.monotonic_ns())
