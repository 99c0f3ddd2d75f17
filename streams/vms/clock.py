"""The stage's clock: a watermark over the ticks that every hosts partition forwards (design §5).

Two readings. `time` is the oldest append time forwarded by the included partitions: whatever was appended before it
has been read, so it says what "has passed". `ticks` rises by the smallest number of ticks that any included partition
gained since it last rose: durations are measured with it, and an outage of ours or of the broker does not count.
Both stand still until every partition was heard once or is left out.
"""

from enum import Enum
from typing import NamedTuple

from schemas.members import at_hand
from streams.vms.policy import LATE_NS, LEFT_OUT_TICKS


@at_hand
class Standing(Enum):
    """How a hosts partition takes part in the clock."""

    WAITING = 0
    """Not heard yet: nothing moves."""
    INCLUDED = 1
    LEFT_OUT = 2
    """Stuck for 300 ticks of the others: no longer waited for, VMs of its hosts are `unread`."""


class Source:
    """The readings of one hosts partition."""

    __slots__ = ("ahead", "base", "chain_log", "log", "standing", "tick", "tick_at", "until")

    def __init__(self) -> None:
        self.log = 0
        self.tick = 0
        self.tick_at = 0
        self.base = 0
        """Its tick when `ticks` last rose."""
        self.ahead = 0
        """The pulse when it was last heard."""
        self.standing = Standing.WAITING
        self.chain_log = -1
        """Log of `until`; -1 before its batches were heard."""
        self.until = -1
        """Offset up to which its batches join one another."""


class Moved(NamedTuple):
    """What hearing a tick changed."""

    risen: bool
    left_out: tuple[int, ...] = ()
    caught_up: bool = False
    """The partition just heard is included again."""


STILL = Moved(risen=False)


class Clock:
    """Readings and the partitions they come from."""

    __slots__ = ("newest_at", "pulse", "sources", "ticks", "time")

    def __init__(self, partitions: int) -> None:
        self.sources = [Source() for _ in range(partitions)]
        self.ticks = 0
        self.time = 0
        """Nanoseconds of append time; 0 before the clock first moved."""
        self.newest_at = 0
        """The newest tick heard from any partition; what is much older is late."""
        self.pulse = 0
        """Ticks of whichever partition is fastest: only to see who is stuck."""

    def left_out(self, source: int) -> bool:
        return self.sources[source].standing is Standing.LEFT_OUT

    def is_late(self, appended_at: int) -> bool:
        """Evidence of this age is late (O6)."""
        return appended_at < self.newest_at - LATE_NS

    def caught_up(self, source: int) -> bool:
        """What this partition says now is no longer late."""
        return not self.is_late(self.sources[source].tick_at)

    def hear(self, source: int, log: int, tick: int, tick_at: int) -> Moved:
        """Take the reading of one partition; an old or repeated one changes nothing."""
        heard = self.sources[source]
        if tick == 0 or log < heard.log or (log == heard.log and tick <= heard.tick):
            return STILL
        self._pulse(heard, log, tick)
        heard.log, heard.tick, heard.tick_at = log, tick, tick_at
        self.newest_at = max(self.newest_at, tick_at)
        caught_up = self._include(heard)
        left_out = self._leave_out()
        return Moved(self._rise(), left_out, caught_up)

    def _pulse(self, heard: Source, log: int, tick: int) -> None:
        if heard.standing is Standing.WAITING or log > heard.log:
            heard.base = tick
        else:
            self.pulse = max(self.pulse, heard.ahead + tick - heard.tick)
        heard.ahead = self.pulse

    def _include(self, heard: Source) -> bool:
        """True when a partition that was left out takes part again."""
        if heard.standing is Standing.INCLUDED:
            return False
        if heard.standing is Standing.LEFT_OUT and self.is_late(heard.tick_at):
            return False
        again = heard.standing is Standing.LEFT_OUT
        heard.standing = Standing.INCLUDED
        heard.base = heard.tick
        return again

    def _leave_out(self) -> tuple[int, ...]:
        stuck = [
            number
            for number, source in enumerate(self.sources)
            if source.standing is not Standing.LEFT_OUT and self.pulse - source.ahead >= LEFT_OUT_TICKS
        ]
        if stuck:
            for number in stuck:
                self.sources[number].standing = Standing.LEFT_OUT
            # Durations do not jump by the standstill: what ran out meanwhile would all run out at once.
            for source in self.sources:
                source.base = source.tick
        return tuple(stuck)

    def _rise(self) -> bool:
        if any(source.standing is Standing.WAITING for source in self.sources):
            return False
        included = [source for source in self.sources if source.standing is Standing.INCLUDED]
        if not included:
            return False
        time = max(self.time, min(source.tick_at for source in included))
        gain = min(source.tick - source.base for source in included)
        risen = gain > 0 or time > self.time
        self.time = time
        if gain > 0:
            self.ticks += gain
            for source in included:
                source.base = source.tick
        return risen
