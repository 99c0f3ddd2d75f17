"""Faust's consumer with the four things changed that a correct and quiet worker needs.

1. The outbox hurries while a rebalance or a stop waits for the inputs in flight.
2. A partition is read from where its table goes on when the group has no offset, or a higher one.
3. The wait of a fetch is short until the tables are loaded (a rebalance waits behind it), long in a quiet line (an idle
   worker wakes up for nothing), and in a busy one for company (a fetch costs the broker and this process about as much
   for one record as for fifty).
4. A record goes straight to the stream where nothing can block it, without the four tasks that Faust makes for each.

These are private hooks of pinned versions; `versions.py` refuses to start on others.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from faust.transport.drivers import aiokafka as driver

from streams.runtime.ownership import Ownership


class FetchPolicy(NamedTuple):
    """A fetch is answered once it has so many bytes, or after so long."""

    wait_ms: int
    least_bytes: int


UNSETTLED = FetchPolicy(wait_ms=100, least_bytes=1)
QUIET = FetchPolicy(wait_ms=1_500, least_bytes=1)
BUSY = FetchPolicy(wait_ms=10, least_bytes=64 * 1024)
STREAM_ROOM = 1_000
"""Records waiting in the stream below which putting one more can not block; the stream takes four times as many."""
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

    def _new_consumer_thread(self) -> InputConsumerThread:
        return InputConsumerThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def _ownership(self) -> Ownership:
        ownership: Ownership = self.app.ownership
        return ownership

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """A rebalance begins: everything in flight has to go out before it is answered."""
        self._ownership.unsettle()
        self._settled = False
        self._thread.set_fetch(UNSETTLED)
        await super().on_partitions_revoked(revoked)

    async def wait_empty(self) -> None:
        """Wait until every input in flight is acknowledged; called before a rebalance is answered and at the end."""
        self._ownership.hasten()
        await super().wait_empty()

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

    async def wait_first(self, *coros: Any, timeout: Any = None) -> Any:
        """Faust waits here for each record's delivery or the end of the flow, whichever is first.

        While the flow is on and the stream has room, the delivery can not block: it is awaited directly, which halves
        what Faust costs per record. Everything else takes Faust's way.
        """
        if len(coros) == 2 and timeout is None and self.flow_active and self.app.intake.backlog() < STREAM_ROOM:
            delivery, flow_ends = coros
            if asyncio.iscoroutine(delivery) and asyncio.iscoroutine(flow_ends):
                flow_ends.close()
                await delivery
                return None
        return await super().wait_first(*coros, timeout=timeout)

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
