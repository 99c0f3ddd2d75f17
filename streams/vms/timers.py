"""Timers: the names of all durations under way, and the queue that says whose time has come.

A VM's own `timers` are the truth; the queue only finds them. An entry whose timer was moved or stopped meanwhile no
longer matches and is passed over.
"""

import heapq
from collections.abc import Iterator
from typing import Final

from schemas.ids import VmId
from schemas.vm_state import Timer

POWERING_UP: Final = "powering_up"
"""S10: nothing heard from the guest, it is up all the same."""
REBOOTING: Final = "rebooting"
"""S5."""
JUDGE: Final = "judge"
"""S1, S3, design §5: a loss is believed."""
HOLD: Final = "hold"
"""O2: the destination did not come."""
GRACE: Final = "grace"
"""O1: the old owner still calls it its own."""
SETTLE: Final = "settle"
"""Two running claims, both hosts confirmed long enough by now."""
REMOVE: Final = "remove"
"""O9."""
FORGET: Final = "forget"
"""The `removed` head has been kept long enough."""

RUN_TIMERS: Final = (POWERING_UP, REBOOTING)
LOSS_TIMERS: Final = (JUDGE, HOLD)


class TimerQueue:
    """Two heaps, by ticks and by time; equal dues come in the order of VM ids and names, so replays agree."""

    __slots__ = ("_by_tick", "_by_time")

    def __init__(self) -> None:
        self._by_tick: list[tuple[int, VmId, str]] = []
        self._by_time: list[tuple[int, VmId, str]] = []

    def copy(self) -> "TimerQueue":
        """A queue of the same entries; entries never change, so only the heaps are copied."""
        other = TimerQueue()
        other._by_tick, other._by_time = self._by_tick.copy(), self._by_time.copy()
        return other

    def push(self, vm_id: VmId, timer: Timer) -> None:
        if timer.due_tick is not None:
            heapq.heappush(self._by_tick, (timer.due_tick, vm_id, timer.kind))
        if timer.due_time is not None:
            heapq.heappush(self._by_time, (timer.due_time, vm_id, timer.kind))

    def due(self, ticks: int, time: int) -> Iterator[tuple[VmId, Timer]]:
        """Remove and give what is due by these readings; a timer set meanwhile takes part when it is due too."""
        while True:
            if self._by_tick and self._by_tick[0][0] <= ticks:
                due, vm_id, kind = heapq.heappop(self._by_tick)
                yield vm_id, Timer(kind, due, None)
            elif self._by_time and self._by_time[0][0] <= time:
                due, vm_id, kind = heapq.heappop(self._by_time)
                yield vm_id, Timer(kind, None, due)
            else:
                return
