"""Faust's consumer with the five things changed that a correct and quiet worker needs.

1. The outbox hurries while a rebalance or a stop waits for the inputs in flight.
2. A partition is read from where its table goes on when the group has no offset, or a higher one.
3. The wait of a fetch is short until the tables are loaded (a rebalance waits behind it), long in a quiet line (an idle
   worker wakes up for nothing), and in a busy one for company (a fetch costs the broker and this process about as much
   for one record as for fifty).
4. What a fetch brought goes straight to the intake, not through Faust's channel and stream, which cost more per record
   than all rules.
5. An acknowledgement is one number per partition: the outbox acknowledges in order, so nothing has to be collected and
   sorted.

These are private hooks of pinned versions; `versions.py` refuses to start on others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.runtime.inputs import InputRecord
from streams.runtime.intake import Intake
from streams.runtime.ownership import Ownership


class FetchPolicy(NamedTuple):
    """A fetch is answered once it has so many bytes, or after so long."""

    wait_ms: int
    least_bytes: int


UNSETTLED = FetchPolicy(wait_ms=100, least_bytes=1)
QUIET = FetchPolicy(wait_ms=1_500, least_bytes=1)
BUSY = FetchPolicy(wait_ms=5, least_bytes=64 * 1024)
FETCH_SECONDS = 1.0
"""How long the drain waits for records before it looks whether it has to stop."""
TURN_SECONDS = 0.02
"""After so long the loop's other tasks get their turn. Records differ a thousandfold in what they cost: a backlog of
full ones kept the loop from its heartbeat for seconds, until the worker fenced itself."""
BUSY_ABOVE_PER_SECOND = 200
"""Records a second from which on waiting for company saves more than it delays."""


class InputConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's thread that owns the aiokafka consumer."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms, consumer._fetch_min_bytes = UNSETTLED
        return consumer

    def set_fetch(self, policy: FetchPolicy) -> None:
        """How fetches wait, from the next one on."""
        fetcher = getattr(self._consumer, "_fetcher", None)
        if fetcher is not None:
            fetcher._fetch_max_wait_ms, fetcher._fetch_min_bytes = policy

    def coordination_failure(self) -> str | None:
        """Why this member can not take part in its group any more, or None. Any thread.

        aiokafka reports it where its own `getmany` is called, which Faust never does: without this the worker stays
        up for ever and reads nothing.
        """
        coordinator = getattr(self._consumer, "_coordinator", None)
        task = getattr(coordinator, "_coordination_task", None)
        if task is None or not task.done() or self.should_stop:
            return None
        error = None if task.cancelled() else task.exception()
        return f"the group coordination task of the consumer ended ({error!r})"


class InputConsumer(driver.Consumer):  # type: ignore[misc]
    """Faust's consumer of the input topic."""

    _thread: InputConsumerThread
    _settled = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._acknowledged: dict[TP, int] = {}
        """By input partition: the offset to commit."""

    def _new_consumer_thread(self) -> InputConsumerThread:
        return InputConsumerThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def _ownership(self) -> Ownership:
        ownership: Ownership = self.app.ownership
        return ownership

    @property
    def _intake(self) -> Intake:
        intake: Intake = self.app.intake
        return intake

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """A rebalance begins: everything in flight has to go out before it is answered."""
        self._ownership.unsettle()
        self._settled = False
        self._thread.set_fetch(UNSETTLED)
        await super().on_partitions_revoked(revoked)
        for tp in revoked:
            self._acknowledged.pop(tp, None)

    async def wait_empty(self) -> None:
        """Wait until every input in flight is acknowledged; called before a rebalance is answered and at the end."""
        await self._ownership.drain()
        await self.commit_and_end_transactions()

    def ack(self, record: InputRecord) -> bool:
        """This input, and all before it in its partition, need not be read again."""
        self._acknowledged[TP(record.topic, record.partition)] = record.offset + 1
        return True

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterable[TP]:
        return list(self._acknowledged)

    def _new_offset(self, tp: TP) -> int | None:
        return self._acknowledged.get(tp)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing: Faust would miss its streams' events. The worker's own watchdog sees what stands still."""

    async def _drain_messages(self, fetcher: Any) -> None:
        """Faust's fetcher calls this once: hand what fetches bring to the intake, until told to stop."""
        try:
            while not (self.should_stop or fetcher.should_stop):
                # A fetch that is answered at once must not keep the loop from its other tasks.
                await asyncio.sleep(0)
                await self._drain_one(fetcher)
        except self.consumer_stopped_errors:
            if not self.transport.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.transport.app.should_stop:
                raise
        except Exception as error:
            # Faust would log it and go on with the next fetch.
            self.app.end_process(error)

    async def _drain_one(self, fetcher: Any) -> None:
        generation = self.app.consumer_generation_id
        records, _ = await self._wait_next_records(FETCH_SECONDS)
        if not records or self.should_stop:
            return
        if not self.flow_active:
            # They were fetched for an assignment that is being changed.
            await self.perform_seek()
            return
        take = self._intake.take
        turn_ends_at = time.monotonic() + TURN_SECONDS
        for batch in records.values():
            for record in batch:
                if not self.flow_active or self.app.consumer_generation_id != generation:
                    return
                await take(self, record)
                if time.monotonic() > turn_ends_at:
                    await asyncio.sleep(0)
                    turn_ends_at = time.monotonic() + TURN_SECONDS

    async def perform_seek(self) -> None:
        """Seek every input to where its table goes on, or to the group's offset where that is lower.

        Faust seeks to committed offsets alone. A partition without one stays where the last fetch left it, and what a
        fetch brought while the flow was stopped is thrown away: a rebalance before the first commit lost records.
        """
        await super().perform_seek()
        lanes = self._ownership.lanes
        targets = {}
        for tp, committed in self._read_offset.items():
            lane = lanes.get(tp.partition)
            if (
                lane is not None
                and not self._is_changelog_tp(tp)
                and (committed is None or committed > lane.next_offset)
            ):
                targets[tp] = lane.next_offset
        if targets:
            await self.seek_wait(targets)

    def settled(self) -> None:
        """The tables are loaded."""
        self._settled = True
        self._thread.set_fetch(QUIET)

    def adapt(self, per_second: float) -> None:
        """Told about once a second how many records came."""
        if self._settled:
            self._thread.set_fetch(BUSY if per_second > BUSY_ABOVE_PER_SECOND else QUIET)

    def coordination_failure(self) -> str | None:
        """See the thread's."""
        return self._thread.coordination_failure()


class InputTransport(driver.Transport):  # type: ignore[misc]
    """Makes the consumer above."""

    Consumer = InputConsumer
