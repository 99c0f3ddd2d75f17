"""The parts of a worker that hit failpoints; built instead of the plain ones when a point of the stage is armed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from infra.runtime.failpoints import Failpoints
from streams.runtime.consumer import InputConsumer, InputTransport
from streams.runtime.inputs import Feed, InputRecord
from streams.runtime.intake import Intake
from streams.runtime.loading import Loaded, Reader
from streams.runtime.outbox import Outbox
from streams.runtime.sender import DeliveryFailed, PartitionRow, Sender
from streams.runtime.settings import REQUEST_TIMEOUT_SECONDS
from streams.runtime.stage import PARTITION_KEY, Demand, Output, PartitionCore
from streams.runtime.wiring import Wiring

IN_FLUSH_SECONDS = 0.001
"""From handing records to the client until the process dies in the midst of their delivery, which takes a few ms."""


def breaking(failpoints: Failpoints) -> Wiring:
    """The wiring of a worker with these points armed."""

    class Consumer(BreakableConsumer):
        points = failpoints

    class Transport(InputTransport):
        pass

    Transport.Consumer = Consumer
    return Wiring(
        outbox=partial(BreakableOutbox, failpoints),
        intake=partial(BreakableIntake, failpoints),
        transport=Transport,
        sender=partial(BreakableSender, failpoints),
        reader=partial(BreakableReader, failpoints),
    )


class BreakableSender:
    """A sender that may die before, within and after a flush, or never hear that it succeeded."""

    def __init__(self, points: Failpoints, inner: Sender) -> None:
        self._points = points
        self._inner = inner

    def send(self, rows: Sequence[PartitionRow], outputs: Sequence[Output]) -> None:
        """See Sender. What the runtime writes down about itself is no wave, and passes without a hit."""
        if not outputs and all(row.row.key != PARTITION_KEY for row in rows):
            self._inner.send(rows, outputs)
            return
        points = self._points
        if outputs:
            points.hit("outbox.before_outputs")
        if rows:
            points.hit("outbox.before_rows")
        self._cut(rows, outputs)
        self._inner.send(rows, outputs)
        unheard = bool(outputs) and points.hit("outbox.outputs_delivered")
        if (bool(rows) and points.hit("outbox.rows_delivered")) or unheard:
            raise DeliveryFailed("the delivery reports were dropped", where="failpoint")

    def purge(self) -> None:
        """See Sender."""
        self._inner.purge()

    def _cut(self, rows: Sequence[PartitionRow], outputs: Sequence[Output]) -> None:
        """Let part of this flush become durable and die, if that is armed."""
        points = self._points
        if (at := points.reached("outbox.row", len(rows))) is not None:
            self._inner.send(rows[:at], ())
            points.fire("outbox.row")
        if not (rows and outputs):
            return
        if points.reached("outbox.rows_alone", 1):
            self._inner.send(rows, ())
            points.fire("outbox.rows_alone")
        if points.reached("outbox.outputs_alone", 1):
            self._inner.send((), outputs)
            points.fire("outbox.outputs_alone")
        if points.reached("outbox.in_flush", 1):
            threading.Timer(IN_FLUSH_SECONDS, points.fire, ("outbox.in_flush",)).start()


class BreakableOutbox(Outbox):
    """An outbox that may die when an input was applied in memory."""

    def __init__(self, points: Failpoints, sender: Sender, **options: Any) -> None:
        super().__init__(sender, **options)
        self._points = points

    def put(self, partition: int, core: PartitionCore, feed: Feed, record: InputRecord, demand: Demand) -> None:
        """See Outbox."""
        self._points.hit("intake.applied")
        super().put(partition, core, feed, record, demand)


class BreakableIntake(Intake):
    """An intake that may die before it applies a record."""

    def __init__(self, points: Failpoints, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._points = points

    async def take(self, feed: Feed, record: InputRecord) -> None:
        """See Intake."""
        self._points.hit("intake.polled")
        await super().take(feed, record)


class BreakableReader:
    """A reader that may die while it reads the table's log, and when it has."""

    def __init__(self, points: Failpoints, inner: Reader) -> None:
        self._points = points
        self._inner = inner

    def load(
        self,
        partitions: Sequence[int],
        kept: Sequence[int],
        *,
        abandoned: threading.Event,
        progress: Callable[[float], object] = lambda share: None,
    ) -> Loaded:
        """See Reader."""

        def progressed(share: float) -> None:
            progress(share)
            self._points.hit("load.reading")

        loaded = self._inner.load(partitions, kept, abandoned=abandoned, progress=progressed)
        self._points.hit("load.read")
        return loaded


class BreakableConsumer(InputConsumer):
    """A consumer that may die behind any acknowledgement, around a commit and in every callback of a rebalance."""

    points: ClassVar[Failpoints]

    def ack(self, record: InputRecord) -> bool:
        """See InputConsumer."""
        done = super().ack(record)
        self.points.hit("outbox.acknowledged")
        return done

    async def _commit(self, offsets: Any) -> bool:
        self.points.hit("commit.before")
        done: bool = await super()._commit(offsets)
        if self.points.hit("commit.done"):
            await asyncio.sleep(REQUEST_TIMEOUT_SECONDS)
            return False
        return done

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """See InputConsumer."""
        self.points.hit("rebalance.revoked")
        await super().on_partitions_revoked(revoked)
        self.points.hit("rebalance.drained")

    async def on_partitions_assigned(self, assigned: Any, generation_id: int = 0) -> None:
        """A generation of the group was formed."""
        self.points.hit("rebalance.assigned")
        await super().on_partitions_assigned(assigned, generation_id)

    def settled(self) -> None:
        """See InputConsumer."""
        super().settled()
        self.points.hit("load.settled")
