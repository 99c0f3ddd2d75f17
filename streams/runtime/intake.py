"""Takes input records to their cores, in order and without holes, and what they cause to the outbox."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from infra.runtime.errors import FatalError, NewerVersion
from infra.runtime.log import get_logger
from schemas.codec import NewerMajorError
from streams.runtime.continuity import Verdict, cross, judge
from streams.runtime.inputs import Feed, InputRecord, input_of
from streams.runtime.isolation import Isolation
from streams.runtime.lanes import Lane, Lanes
from streams.runtime.outbox import Outbox
from streams.runtime.sender import Clock
from streams.runtime.stage import Input
from streams.runtime.trials import ALONE_FROM, ISOLATED_FROM, Trial

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
        isolation: Isolation,
        now: Clock = time.monotonic,
    ) -> None:
        self.isolation = isolation
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
        if lane.mending is not None:
            await lane.mending.wait()
        verdict = judge(lane.next_offset, record.offset)
        if verdict is Verdict.REPEAT:
            self.repeats += 1
            lane.moved_at = self._now()
            self._outbox.put_repeat(feed, record)
        elif verdict is Verdict.APPLY or await self._cross(lane, record.offset):
            if lane.trial is not None:
                await self._try(lane, feed, record, lane.trial)
            elif (error := self._apply(lane, feed, record)) is not None:
                await self.isolation.failed(lane, feed, record, error)
        if self._outbox.full:
            await self._outbox.room()

    def _apply(self, lane: Lane, feed: Feed, record: InputRecord) -> Exception | None:
        """Apply the input; what the core raised, when that is the input's fault, and the core is of no more use."""
        given = input_of(record)
        try:
            demand = lane.core.apply(given)
        except NewerMajorError as error:
            raise self.isolation.newer(given, error) from error
        except (FatalError, MemoryError):
            raise
        except Exception as error:
            return error
        self._applied(lane, given)
        self._outbox.put(lane.partition, lane.core, feed, record, demand)
        return None

    async def _try(self, lane: Lane, feed: Feed, record: InputRecord, trial: Trial) -> None:
        """Apply an input that may be what ended the process before this one."""
        # With nothing in flight a rebalance would be answered, and the partition be another's, while a row is written.
        self._outbox.hold()
        try:
            await self.isolation.begin(lane, trial)
            if trial.attempts >= ISOLATED_FROM and record.offset == trial.offset:
                await self.isolation.marked(lane, feed, record, trial)
            elif (error := self._apply(lane, feed, record)) is not None:
                await self.isolation.failed(lane, feed, record, error)
            if trial.attempts >= ALONE_FROM and record.offset == trial.offset:
                await self.isolation.take_back(lane, trial)
        except NewerVersion:
            await self.isolation.take_back(lane, trial)
            raise
        finally:
            self._outbox.redeemed()
        if trial.attempts >= ALONE_FROM:
            await self._outbox.flush()
        if lane.next_offset >= trial.until:
            lane.trial = None

    def _applied(self, lane: Lane, given: Input) -> None:
        if lane.core.applied != given.offset:
            raise FatalError(
                f"the core says it applied offset {lane.core.applied}, it was given {given.offset}",
                where=f"{self._input_topic}[{lane.partition}]@{given.offset}",
            )
        lane.next_offset = given.offset + 1
        lane.moved_at = self._now()
        self.applied += 1

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
