"""How long to wait before trying again: exponential with full jitter, as a value that is told time and chance."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

Random = Callable[[], float]
"""Uniform in [0, 1), such as ``random.random``; an argument, so that tests can repeat a run."""


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """The policy. Full jitter spreads many clients of one server evenly, which matters more than an even pace of one.

    A success older than ``calm_seconds`` starts the next failure at the beginning again.
    """

    first_seconds: float = 0.5
    cap_seconds: float = 10.0
    calm_seconds: float = 60.0

    def ceiling_seconds(self, failures: int) -> float:
        """The longest wait after this many failures in a row, at least one."""
        # Bounded before the power, which overflows a float after a thousand failures.
        return min(self.cap_seconds, self.first_seconds * 2.0 ** min(failures - 1, 63))

    def delay_seconds(self, failures: int, random: Random) -> float:
        """The wait after this many failures in a row: uniform between nothing and the ceiling."""
        return random() * self.ceiling_seconds(failures)


class Retry:
    """The state of one thing that is tried again. ``now`` is any monotonic clock in seconds, the same in all calls."""

    def __init__(self, policy: Backoff) -> None:
        self._policy = policy
        self._last_failed_at: float | None = None
        self.failures = 0
        self.due_at = float("-inf")

    def failed(self, now: float, random: Random, *, at_least_seconds: float = 0.0) -> float:
        """Note a failure and return the wait until the next try; ``at_least_seconds`` is what the neighbour asked."""
        if self._last_failed_at is not None and now - self._last_failed_at > self._policy.calm_seconds:
            self.failures = 0
        self.failures += 1
        self._last_failed_at = now
        delay = max(at_least_seconds, self._policy.delay_seconds(self.failures, random))
        self.due_at = now + delay
        return delay

    def succeeded(self) -> None:
        """Note a success: the next try is due at once, and the next failure is the first."""
        self.failures = 0
        self._last_failed_at = None
        self.due_at = float("-inf")

    def due(self, now: float) -> bool:
        """True when the next try may begin."""
        return now >= self.due_at
