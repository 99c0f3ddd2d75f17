"""What ends a worker that looks alive and is not: the self-fence, and the probes of the watchdog.

Each of these was seen to leave a Faust worker up for ever, doing nothing, with a green health page.
"""

from __future__ import annotations

import time

from infra.runtime.errors import SelfFenced
from infra.runtime.http import WELL, Health
from streams.runtime.lanes import Lanes
from streams.runtime.ownership import Ownership
from streams.runtime.sender import Clock

FENCE_SHARE = 0.8
"""Of the session timeout. A worker that stood still longer may have lost its partitions without knowing it yet."""
LOOP_LIMIT_SECONDS = 30.0
"""The event loop does nothing that takes a second; thirty means that it hangs."""


def _boot_seconds() -> float:
    """Seconds since boot, those in which the machine was suspended too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Fence:
    """Notices that the process stood still: a pause of the machine, a stopped process, a blocked loop."""

    def __init__(self, session_timeout_seconds: float, now: Clock = _boot_seconds) -> None:
        self._limit_seconds = session_timeout_seconds * FENCE_SHARE
        self._now = now
        self._beat_at = now()

    def beat(self) -> None:
        """The loop runs. Raises SelfFenced when it did not for too long; then nothing more may be sent."""
        self.check()
        self._beat_at = self._now()

    def check(self) -> None:
        """Raises SelfFenced when the loop stood still for too long. Cheap; called before every send."""
        stood_still = self._now() - self._beat_at
        if stood_still > self._limit_seconds:
            raise SelfFenced(
                f"this process stood still for {stood_still:.1f} s, limit {self._limit_seconds:.1f} s",
                where="self-fence",
                advice="another worker may own its partitions; the restart begins with what is in the log",
            )


class Progress:
    """Notices that the input has records and none is applied. Told the ends of the log now and then."""

    def __init__(self, lanes: Lanes, *, deadline_seconds: float, now: Clock = time.monotonic) -> None:
        self._lanes = lanes
        self._deadline_seconds = deadline_seconds
        self._now = now
        self.lags: dict[int, int] = {}
        """Records not applied yet, by partition, when last asked."""

    def ends_are(self, ends: dict[int, int]) -> None:
        """The ends of the input partitions by now."""
        now = self._now()
        for partition, lane in list(self._lanes.items()):
            if partition in ends:
                lag = max(0, ends[partition] - lane.next_offset)
                if lag == 0:
                    lane.moved_at = now
                self.lags[partition] = lag
        for partition in self.lags.keys() - self._lanes.keys():
            del self.lags[partition]

    def stuck(self) -> str | None:
        """Which partition does not move, or None. Any thread."""
        now = self._now()
        for partition, lane in list(self._lanes.items()):
            still = now - lane.moved_at
            if still > self._deadline_seconds and self.lags.get(partition, 0) > 0:
                return (
                    f"partition {partition} has {self.lags[partition]} records to read and none was for {still:.0f} s"
                )
        return None


class Recovery:
    """Notices that a rebalance or the loading of tables does not end."""

    def __init__(self, ownership: Ownership, *, deadline_seconds: float, now: Clock = time.monotonic) -> None:
        self._ownership = ownership
        self._deadline_seconds = deadline_seconds
        self._now = now

    def stuck(self) -> str | None:
        """Since when, or None. Any thread."""
        since = self._ownership.unsettled_since
        if since is None or self._now() - since <= self._deadline_seconds:
            return None
        return f"the assignment is not settled after {self._deadline_seconds:.0f} s"


def readiness(ownership: Ownership) -> Health:
    """Ready: the assignment is final, its tables are loaded, the input flows. Any thread."""
    if ownership.settled:
        return WELL
    share = round(100 * ownership.recovery_share)
    return Health(ok=False, reasons=(f"rebalancing, or loading tables ({share} % loaded)",))
