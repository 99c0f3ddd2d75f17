"""How far behind the history is, in seconds of the load."""

from __future__ import annotations

import time
from collections import deque

from tests.faults.faulty_line import FaultyLine
from tests.faults.load import Load


class Lag:
    """Remembers when how much was accepted. Count based: the load's changes are stored in any order of hosts."""

    def __init__(self, line: FaultyLine, load: Load) -> None:
        self._line = line
        self._load = load
        self._accepted: deque[tuple[float, int]] = deque()

    def sample(self) -> float:
        """Seconds since as many changes were accepted as are stored now."""
        now = time.monotonic()
        self._accepted.append((now, self._load.accepted_changes))
        stored = self._line.stored()
        while len(self._accepted) > 1 and self._accepted[1][1] <= stored:
            self._accepted.popleft()
        return now - self._accepted[0][0] if self._accepted[0][1] > stored or len(self._accepted) > 1 else 0.0

    def until_below(self, bound_seconds: float, within_seconds: float) -> float:
        """Seconds until the lag is below the bound; AssertionError when it takes longer."""
        began_at = time.monotonic()
        while (lag := self.sample()) > bound_seconds:
            waited = time.monotonic() - began_at
            assert waited < within_seconds, f"still {lag:.1f} s behind after {waited:.0f} s"
            time.sleep(0.5)
        return time.monotonic() - began_at
