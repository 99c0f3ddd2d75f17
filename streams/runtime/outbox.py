"""The Outbox: sends what the cores produced, and acknowledges an input only when everything it caused is durable.

A two-stage group commit. A *wave* is all that the inputs applied since the last wave produced, sealed per partition.
One cycle sends the outputs of the newest wave and, where they are due, the rows of the waves whose outputs are durable
already; it waits for all deliveries once, and then acknowledges the inputs of the waves whose rows it sent, in the
order they were applied. So for each wave: outputs, then rows, then acknowledgements, and the next wave grows while
this one is on its way. Readers wait for outputs, nobody waits for rows: those of several waves go together, the last
one of each key.

Why this order: if rows came first, a crash between the two would leave a table that already knows the change, the
input would be read again, nothing would differ, and the change would be lost for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from streams.runtime.ending import EndProcess, end_process
from streams.runtime.inputs import Feed, InputRecord
from streams.runtime.sender import Clock, DeliveryFailed, PartitionRow, Sender
from streams.runtime.stage import BOOKKEEPING, PARTITION_KEY, Batch, Demand, Output, PartitionCore, Row

CALM_SECONDS = 1.0
"""How long work that is not urgent waits for urgent work to ride with."""
PACE_SECONDS = 0.007
"""Least time between the beginnings of two cycles. A cycle costs the broker about as much for one record as for a
hundred; a change after a quiet time does not wait."""
ROWS_SECONDS = 0.25
"""How long the rows of delivered outputs wait for those of later waves. Only the acknowledgement comes later by it, and
so what a crash repeats is a little more."""
ROOM_SHARE = 0.7
"""A full outbox takes inputs again below this share of its bound, so that it does not flutter."""


class Receipt(NamedTuple):
    """An input to acknowledge, and the room it takes."""

    feed: Feed
    record: InputRecord
    records: int


class Wave:
    """Sealed batches of all partitions, and the inputs they came from in the order applied."""

    __slots__ = ("outputs", "receipts", "rows", "rows_due_at", "urgent")

    def __init__(self, urgent: bool) -> None:
        self.rows_due_at = float("inf")
        self.receipts: list[Receipt] = []
        self.outputs: list[Output] = []
        self.rows: list[PartitionRow] = []
        self.urgent = urgent


class CycleReport(NamedTuple):
    """One cycle, for metrics."""

    outputs: list[Output]
    rows: int
    acknowledged: list[Receipt]
    urgent: bool
    """Whether the acknowledged inputs were sent at once; others had waited for company."""
    seconds: float
    """Until all was durable; 0 when there was nothing to send."""


Spoiled = Callable[[int, list[Receipt], Exception], object]
"""Told of a partition whose batch can not be sent, with the inputs it came from. The error is one nobody foresaw."""


def _is_fatal(partition: int, receipts: list[Receipt], error: Exception) -> None:
    raise error


class Outbox:
    """Owned by the event loop; only `Sender.send` runs in another thread."""

    def __init__(
        self,
        sender: Sender,
        *,
        max_in_flight: int,
        check_fence: Callable[[], object] = lambda: None,
        on_cycle: Callable[[CycleReport], object] = lambda report: None,
        end: EndProcess = end_process,
        check_batch: Callable[[Batch], object] = lambda batch: None,
        calm_seconds: float = CALM_SECONDS,
        pace_seconds: float = PACE_SECONDS,
        rows_seconds: float = ROWS_SECONDS,
        now: Clock = time.monotonic,
    ) -> None:
        """`check_fence` raises when this process stood still too long to still own its partitions.

        `check_batch` raises when the broker would refuse a record of it.
        """
        self._check_batch = check_batch
        self.on_spoiled: Spoiled = _is_fatal
        self._held = 0
        self._flushing = 0
        self._sender = sender
        self._max_in_flight = max_in_flight
        self._check_fence = check_fence
        self._on_cycle = on_cycle
        self._end = end
        self._calm_seconds = calm_seconds
        self._pace_seconds = pace_seconds
        self._rows_seconds = rows_seconds
        self._now = now
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="outbox")
        self._touched: dict[int, PartitionCore] = {}
        self._receipts: list[Receipt] = []
        self._delivered: list[Wave] = []
        self._sending = False
        self._urgent = False
        self._hurry = False
        self._quiet_since: float | None = None
        self._cycle_began_at = float("-inf")
        self._timer: asyncio.Handle | None = None
        self._timer_due_at = float("inf")
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._sent = asyncio.Event()
        self._sent.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.in_flight = 0
        """Records between applied and acknowledged, as demanded."""

    def put(self, partition: int, core: PartitionCore, feed: Feed, record: InputRecord, demand: Demand) -> None:
        """The core applied this input: send what it caused, then acknowledge it."""
        self._touched[partition] = core
        self._add(Receipt(feed, record, demand.records + 1), urgent=demand.urgent)

    def put_repeat(self, feed: Feed, record: InputRecord) -> None:
        """An input that was applied before: acknowledge it in its turn."""
        self._add(Receipt(feed, record, 1), urgent=False)

    @property
    def full(self) -> bool:
        """True when the next input has to wait for `room`."""
        return not self._room.is_set()

    async def room(self) -> None:
        """Return when there is room for more."""
        await self._room.wait()

    @property
    def idle(self) -> bool:
        """True when a `drain` would not wait."""
        return self._idle.is_set()

    def hasten(self) -> None:
        """From now on nothing waits for company: the inputs in flight hold up a rebalance or a stop."""
        self._hurry = True
        self._wake.set()

    @property
    def hurried(self) -> bool:
        """True between `hasten` and `relax`."""
        return self._hurry

    def relax(self) -> None:
        """End of `hasten`."""
        self._hurry = False

    @property
    def _at_once(self) -> bool:
        return self._hurry or self._flushing > 0

    async def drain(self) -> None:
        """Return when everything put so far is durable and acknowledged."""
        self.hasten()
        await self._idle.wait()

    async def flush(self) -> None:
        """Return when everything put so far is durable and acknowledged, except for what was withdrawn."""
        self._flushing += 1
        self._wake.set()
        try:
            await self._sent.wait()
        finally:
            self._flushing -= 1

    def hold(self) -> None:
        """Nothing counts as drained until `redeemed` is called: inputs are about to be put, or put again."""
        self._held += 1
        self._idle.clear()

    def withdraw(self, partition: int) -> list[Receipt]:
        """Take back the inputs of a partition that nothing was sent of yet, in order; their core is forgotten."""
        self._touched.pop(partition, None)
        back = [receipt for receipt in self._receipts if receipt.record.partition == partition]
        self._receipts = [receipt for receipt in self._receipts if receipt.record.partition != partition]
        self._tell_if_sent()
        return back

    def put_again(self, core: PartitionCore, receipt: Receipt, demand: Demand) -> None:
        """`put`, for an input that was withdrawn."""
        self.in_flight -= receipt.records
        self.put(receipt.record.partition, core, receipt.feed, receipt.record, demand)

    def repeat_again(self, receipt: Receipt) -> None:
        """`put_repeat`, for an input that was withdrawn."""
        self.in_flight -= receipt.records
        self.put_repeat(receipt.feed, receipt.record)

    def redeemed(self) -> None:
        """End of `hold`: what it was for is put."""
        self._held -= 1
        self._tell_if_sent()

    async def write(self, partition: int, row: Row) -> None:
        """Write one row of bookkeeping now; raises as a send does."""
        self._check_fence()
        rows = [PartitionRow(partition, row)]
        await asyncio.get_running_loop().run_in_executor(self._executor, self._sender.send, rows, [])

    def write_blocking(self, partition: int, row: Row) -> None:
        """The same, while the loop stands still."""
        self._check_fence()
        self._executor.submit(self._sender.send, [PartitionRow(partition, row)], []).result()

    async def run(self) -> None:
        """Send until cancelled. Any failure ends the process: nothing after it may be acknowledged."""
        try:
            while True:
                await self._due()
                await self._cycle()
        except asyncio.CancelledError:
            # The loop ends in order; inputs in flight are read again, as after a crash.
            return
        except Exception as error:
            self._end(error)

    def close(self) -> None:
        """Give the thread back. A send under way ends by itself."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def fence(self) -> None:
        """Drop what was not sent yet. Any thread."""
        self._sender.purge()

    def _add(self, receipt: Receipt, *, urgent: bool) -> None:
        self._receipts.append(receipt)
        self.in_flight += receipt.records
        self._idle.clear()
        self._sent.clear()
        if urgent and not self._urgent:
            self._urgent = True
        elif not urgent and self._quiet_since is None:
            self._quiet_since = asyncio.get_running_loop().time()
        elif self.in_flight < self._max_in_flight and not self._at_once:
            # Whatever is due was due before, and is armed.
            return
        if self.in_flight >= self._max_in_flight:
            self._room.clear()
        self._wake_or_arm()

    def _due_at(self) -> float | None:
        """When the next cycle has to begin, by the loop's clock; None while there is nothing to do."""
        if not self._receipts and not self._delivered:
            return None
        if self._at_once or self.full:
            return float("-inf")
        due = [wave.rows_due_at for wave in self._delivered]
        if self._urgent:
            due.append(self._cycle_began_at + self._pace_seconds)
        if self._quiet_since is not None:
            due.append(self._quiet_since + self._calm_seconds)
        return min(due)

    def _with_rows(self, now: float) -> list[Wave]:
        """The delivered waves whose rows go with this cycle: all of them once the first is due."""
        if not (self._at_once or self.full) and all(wave.rows_due_at > now for wave in self._delivered):
            return []
        waves, self._delivered = self._delivered, []
        return waves

    def _wake_or_arm(self) -> None:
        """Begin the next cycle now, or set the one timer to when it is due."""
        due_at = self._due_at()
        if due_at is None:
            return
        loop = asyncio.get_running_loop()
        if due_at <= loop.time():
            self._wake.set()
        elif due_at < self._timer_due_at:
            self._disarm()
            self._timer, self._timer_due_at = loop.call_at(due_at, self._time_is_up), due_at

    def _time_is_up(self) -> None:
        self._disarm()
        self._wake.set()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_due_at = None, float("inf")

    async def _due(self) -> None:
        loop = asyncio.get_running_loop()
        while (due_at := self._due_at()) is None or due_at > loop.time():
            self._wake.clear()
            self._wake_or_arm()
            await self._wake.wait()

    def _seal(self) -> Wave:
        wave = Wave(urgent=self._urgent)
        wave.receipts, self._receipts = self._receipts, []
        touched, self._touched = self._touched, {}
        for partition, core in touched.items():
            batch = self._seal_one(partition, core, wave)
            wave.outputs += batch.outputs
            wave.rows += [PartitionRow(partition, row) for row in batch.rows]
        self._urgent = False
        self._quiet_since = None
        self._disarm()
        return wave

    def _seal_one(self, partition: int, core: PartitionCore, wave: Wave) -> Batch:
        """The batch of one partition; an empty one, and its inputs withdrawn, when it can not be made or sent."""
        try:
            batch = core.seal()
            self._check_batch(batch)
        except (DeliveryFailed, MemoryError):
            raise
        except Exception as error:
            back = [receipt for receipt in wave.receipts if receipt.record.partition == partition]
            wave.receipts = [receipt for receipt in wave.receipts if receipt.record.partition != partition]
            self.on_spoiled(partition, back, error)
            return Batch([], [])
        return batch

    def _tell_if_sent(self) -> None:
        # A wave under way is in neither list.
        if not self._receipts and not self._delivered and not self._sending:
            self._sent.set()
            if not self._held:
                self._idle.set()

    async def _cycle(self) -> None:
        self._check_fence()
        loop = asyncio.get_running_loop()
        self._cycle_began_at = loop.time()
        self._sending = True
        remembered = self._with_rows(self._cycle_began_at)
        wave = self._seal()
        rows = merge_rows([row for one in remembered for row in one.rows])
        seconds = 0.0
        if rows or wave.outputs:
            started_at = self._now()
            await loop.run_in_executor(self._executor, self._sender.send, rows, wave.outputs)
            seconds = self._now() - started_at
        if wave.receipts:
            wave.rows_due_at = loop.time() + (self._rows_seconds if wave.urgent else self._calm_seconds)
            self._delivered.append(wave)
        self._sending = False
        acknowledged = [receipt for one in remembered for receipt in one.receipts]
        for receipt in acknowledged:
            receipt.feed.ack(receipt.record)
            self.in_flight -= receipt.records
        urgent = any(one.urgent for one in remembered)
        self._on_cycle(CycleReport(wave.outputs, len(rows), acknowledged, urgent, seconds))
        if self.in_flight <= self._max_in_flight * ROOM_SHARE:
            self._room.set()
        self._tell_if_sent()
        self._wake_or_arm()


def merge_rows(rows: list[PartitionRow]) -> list[PartitionRow]:
    """The last row of each key and partition, in an order in which a torn write can be told from a whole one.

    Per partition: details and heads as they came, then deletes, then bookkeeping, the partition's own row last. A row
    left out for a later one of its key moves what it said behind rows of earlier waves, and bookkeeping says that
    everything up to it is included: it may only be durable when all of that is.
    """
    last = {(row.partition, row.row.key): at for at, row in enumerate(rows)}
    kept = [row for at, row in enumerate(rows) if last[row.partition, row.row.key] == at]
    return sorted(kept, key=_place_in_wave)


def _place_in_wave(row: PartitionRow) -> int:
    """A facet is deleted after the head that no longer lists it; the row that says what is included comes last."""
    key, value, _ = row.row
    if key == PARTITION_KEY:
        return 3
    if key.startswith(BOOKKEEPING):
        return 2
    return 1 if value is None else 0
