"""What happens to an input that a core can not apply: nobody else's inputs wait for it, and it ends no process twice.

An input that raises leaves its core half changed. So the core is thrown away: what it had sealed is delivered, a fresh
one is loaded from the table's log, the inputs that nothing was sent of yet are applied again, and the one at fault part
by part (`PartitionCore.isolate`). The same when a batch can not be sealed, or a record of it is too large for its
topic; then all inputs of that batch are applied with care. Other partitions of the worker wait as long as the load
takes, the process goes on.

An input that ends the process (a signal, no memory) is found by `trials`, and applied with a mark before each part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from infra.runtime.errors import FatalError, NewerVersion
from infra.runtime.log import get_logger
from schemas.codec import NewerMajorError
from streams.runtime.ending import EndProcess, end_process
from streams.runtime.inputs import Feed, InputRecord, input_of
from streams.runtime.lanes import Lane, Lanes
from streams.runtime.outbox import Outbox, Receipt
from streams.runtime.stage import WHOLE, Demand, Fits, Input, PartitionCore
from streams.runtime.trials import ALONE_FROM, Trial, begun, row_of, untried

Reload = Callable[[Lane], Awaitable[PartitionCore]]
"""A fresh core of the lane's partition, from the table's log."""

_log = get_logger(__name__)


class Isolation:
    """Mends lanes. Owned by the event loop; one input of a lane at a time."""

    def __init__(
        self,
        lanes: Lanes,
        outbox: Outbox,
        reload: Reload,
        *,
        input_topic: str,
        fits: Fits = lambda topic, size: True,
        end: EndProcess = end_process,
    ) -> None:
        self._lanes = lanes
        self._outbox = outbox
        self._reload = reload
        self._input_topic = input_topic
        self._fits = fits
        self._end = end
        self._begun: dict[int, Lane] = {}
        self._spoiled_at: dict[int, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.isolated = 0
        """Inputs applied part by part."""
        outbox.on_spoiled = self.spoiled

    async def failed(self, lane: Lane, feed: Feed, record: InputRecord, error: Exception) -> None:
        """The core raised at this input: mend the lane and apply it with care."""
        self._say(lane, record.offset, error)
        self._outbox.hold()
        receipts = [*self._outbox.withdraw(lane.partition), Receipt(feed, record, 0)]
        lane.mending = asyncio.Event()
        await self._mend(lane, receipts, {record.offset}, ())

    def spoiled(self, partition: int, receipts: list[Receipt], error: Exception) -> None:
        """A batch of this partition can not be made or sent: mend the lane and apply all its inputs with care."""
        lane = self._lanes.get(partition)
        if lane is None or not receipts:
            raise FatalError("a batch without inputs can not be sent", where=self._where(partition, -1)) from error
        first = receipts[0].record.offset
        self._say(lane, first, error)
        # What could not be found part by part is found by leaving out everything.
        condemned = (WHOLE,) if self._spoiled_at.get(partition) == first else ()
        self._spoiled_at[partition] = first
        self._outbox.hold()
        lane.mending = asyncio.Event()
        suspects = {receipt.record.offset for receipt in receipts}
        task = asyncio.get_running_loop().create_task(self._mend_or_end(lane, receipts, suspects, condemned))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def begin(self, lane: Lane, trial: Trial) -> None:
        """Write down, before the first input after a load is applied, that this process begins here."""
        if self._begun.get(lane.partition) is not lane:
            self._begun[lane.partition] = lane
            if trial.attempts >= ALONE_FROM:
                # A death for what earlier inputs of other partitions caused would count against this one.
                await self._outbox.flush()
            await self._outbox.write(lane.partition, row_of(begun(trial)))

    async def take_back(self, lane: Lane, trial: Trial) -> None:
        """Write down that this attempt is not to count: the core is done, or older than the input.

        What the input caused must not be on its way yet.
        """
        await self._outbox.write(lane.partition, row_of(untried(trial)))

    async def marked(self, lane: Lane, feed: Feed, record: InputRecord, trial: Trial) -> None:
        """Apply an input that ended processes before: alone, part by part, each marked beforehand."""
        _log.error(
            "input_ends_processes",
            where=self._where(lane.partition, record.offset),
            attempts=trial.attempts,
            condemned=[part.hex() for part in trial.condemned],
        )
        given = input_of(record)

        def before(names: Sequence[bytes]) -> None:
            # What is of no part, such as what follows the last one, is of the whole input.
            parts = tuple(names) or (WHOLE,)
            self._outbox.write_blocking(lane.partition, row_of(msgspec.structs.replace(trial, parts=parts)))

        try:
            demand = lane.core.isolate(given, trial.condemned, self._fits, before)
        except NewerMajorError as error:
            raise self.newer(given, error) from error
        except (FatalError, MemoryError):
            raise
        except Exception as error:
            await self.failed(lane, feed, record, error)
            return
        self.isolated += 1
        lane.next_offset = given.offset + 1
        self._outbox.put(lane.partition, lane.core, feed, record, demand)

    def newer(self, given: Input, error: NewerMajorError) -> NewerVersion:
        """What ends a process that met something newer than itself."""
        return NewerVersion(
            str(error),
            where=self._where(given.partition, given.offset),
            advice="upgrade this worker; nothing was committed",
        )

    async def _mend_or_end(
        self, lane: Lane, receipts: list[Receipt], suspects: set[int], condemned: tuple[bytes, ...]
    ) -> None:
        try:
            await self._mend(lane, receipts, suspects, condemned)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._end(error)

    async def _mend(
        self, lane: Lane, receipts: list[Receipt], suspects: set[int], condemned: tuple[bytes, ...]
    ) -> None:
        while receipts:
            await self._outbox.flush()
            core = await self._reload(lane)
            if self._lanes.get(lane.partition) is not lane:
                raise FatalError("the partition was given away while it was mended", where=self._where(lane.partition))
            lane.core = core
            receipts = self._replay(lane, receipts, suspects, condemned)
        mending, lane.mending = lane.mending, None
        if mending is not None:
            mending.set()
        self._outbox.redeemed()

    def _replay(
        self, lane: Lane, receipts: list[Receipt], suspects: set[int], condemned: tuple[bytes, ...]
    ) -> list[Receipt]:
        """Apply these inputs again; gives those that are left when one more proves to be at fault."""
        core = lane.core
        for at, receipt in enumerate(receipts):
            given = input_of(receipt.record)
            if given.offset <= core.applied:
                self._outbox.repeat_again(receipt)
                continue
            if 0 <= core.applied < given.offset - 1:
                # The inputs between fell off the log before they were read, which the lane knew already.
                core.gap(core.applied + 1, given.offset)
            try:
                demand = self._apply(core, given, suspects, condemned)
            except NewerMajorError as error:
                raise self.newer(given, error) from error
            except (FatalError, MemoryError):
                raise
            except Exception as error:
                self._say(lane, given.offset, error)
                suspects.add(given.offset)
                return [*self._outbox.withdraw(lane.partition), *receipts[at:]]
            lane.next_offset = given.offset + 1
            self._outbox.put_again(core, receipt, demand)
        return []

    def _apply(self, core: PartitionCore, given: Input, suspects: set[int], condemned: tuple[bytes, ...]) -> Demand:
        if given.offset not in suspects:
            return core.apply(given)
        self.isolated += 1
        try:
            return core.isolate(given, condemned, self._fits, lambda names: None)
        except (FatalError, MemoryError, NewerMajorError):
            raise
        except Exception as error:
            raise FatalError(
                f"not even part by part can this input be applied ({type(error).__name__}: {error})",
                where=self._where(given.partition, given.offset),
            ) from error

    def _say(self, lane: Lane, offset: int, error: Exception) -> None:
        _log.error(
            "input_not_applicable",
            where=self._where(lane.partition, offset),
            error=str(error),
            error_type=type(error).__name__,
            exc_info=error,
        )

    def _where(self, partition: int, offset: int | None = None) -> str:
        return f"{self._input_topic}[{partition}]" + ("" if offset is None else f"@{offset}")
