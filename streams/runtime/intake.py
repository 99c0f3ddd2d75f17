"""Takes input records to their cores, in order and without holes, and what they cause to the outbox."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from infra.runtime.errors import FatalError, NewerVersion
from infra.runtime.log import get_logger
from schemas.codec import SCHEMA_HEADER, NewerMajorError
from streams.runtime.continuity import Verdict, cross, judge
from streams.runtime.lanes import Lane, Lanes
from streams.runtime.outbox import Feed, InputRecord, Outbox
from streams.runtime.sender import Clock
from streams.runtime.stage import Input

LogStart = Callable[[int], Awaitable[int]]
"""Offset of the first record an input partition still has, asked anew."""

_log = get_logger(__name__)


class Intake:
    """Called for every input by the consumer; one at a time per worker."""

    def __init__(
        self,
        lanes: Lanes,
        outbox: Outbox,
        *,
        input_topic: str,
        log_start: LogStart,
        now: Clock = time.monotonic,
    ) -> None:
        self._lanes = lanes
        self._outbox = outbox
        self._input_topic = input_topic
        self._log_start = log_start
        self._now = now
        self.received = 0
        self.applied = 0
        self.repeats = 0
        self.gaps = 0
        self.strays = 0
        """Inputs of partitions that are not ours (any more); the owner reads them."""

    async def take(self, feed: Feed, record: InputRecord) -> None:
        """Apply one input, or acknowledge a repeat. Raises a FatalError when the process must not go on."""
        self.received += 1
        lane = self._lanes.get(record.partition)
        if lane is None:
            self.strays += 1
            return
        verdict = judge(lane.next_offset, record.offset)
        if verdict is Verdict.REPEAT:
            self.repeats += 1
            lane.moved_at = self._now()
            self._outbox.put_repeat(feed, record)
        elif verdict is Verdict.APPLY or await self._cross(lane, record.offset):
            self._apply(lane, feed, record)
        if self._outbox.full:
            await self._outbox.room()

    def _apply(self, lane: Lane, feed: Feed, record: InputRecord) -> None:
        core, offset = lane.core, record.offset
        given = Input(
            partition=lane.partition,
            offset=offset,
            appended_at=record.timestamp * 1_000_000,
            key=record.key,
            value=record.value or b"",
            schema=_schema(record.headers),
        )
        try:
            demand = core.apply(given)
        except NewerMajorError as error:
            raise NewerVersion(
                str(error), where=self._where(lane, offset), advice="upgrade this worker; nothing was committed"
            ) from error
        if core.applied != offset:
            raise FatalError(
                f"the core says it applied offset {core.applied}, it was given {offset}",
                where=self._where(lane, offset),
            )
        lane.next_offset = offset + 1
        lane.moved_at = self._now()
        self.applied += 1
        self._outbox.put(lane.partition, core, feed, record, demand)

    async def _cross(self, lane: Lane, offset: int) -> bool:
        """Step over inputs that fell off the log; False when the partition was taken from us meanwhile."""
        log_start = await self._log_start(lane.partition)
        if self._lanes.get(lane.partition) is not lane or self._outbox.hurried:
            # A rebalance began meanwhile and may be answered already: nothing new may be begun.
            self.strays += 1
            return False
        gap = cross(lane.next_offset, offset, log_start, where=f"{self._input_topic}[{lane.partition}]")
        lane.core.gap(gap.first_missing, gap.next_offset)
        lane.next_offset = gap.next_offset
        self.gaps += 1
        _log.error(
            "inputs_lost",
            topic=self._input_topic,
            partition=lane.partition,
            first_missing=gap.first_missing,
            next_offset=gap.next_offset,
        )
        return True

    def _where(self, lane: Lane, offset: int) -> str:
        return f"{self._input_topic}[{lane.partition}]@{offset}"


def _schema(headers: Any) -> bytes | None:
    for name, value in headers or ():
        if name == SCHEMA_HEADER:
            found: bytes | None = value
            return found
    return None
