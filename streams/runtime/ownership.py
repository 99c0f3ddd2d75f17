"""Which partitions this worker owns, and when the memory of one may be kept across a rebalance.

Memory is the truth only while nobody else can have owned the partition: it survives a rebalance when this worker took
part in every generation of the group and had delivered and acknowledged everything before it answered. Otherwise the
partition is loaded again. (A worker frozen past its session came back with stale rows, and wrote them.)
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Set
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from infra.runtime.errors import NewerVersion
from infra.runtime.log import get_logger
from schemas.codec import NewerMajorError
from streams.runtime.continuity import first_offset
from streams.runtime.ending import EndProcess, end_process
from streams.runtime.lanes import Lane, Lanes
from streams.runtime.loading import Abandoned, Loaded, Reader
from streams.runtime.outbox import Outbox
from streams.runtime.sender import Clock
from streams.runtime.stage import PartitionCore
from streams.runtime.trials import next_trial

_log = get_logger(__name__)

GC_THRESHOLDS = (50_000, 20, 50)
"""What a record makes dies with its wave; collecting after every 700 of its objects finds next to nothing."""


class Ownership:
    """The lanes of this worker. Everything runs in the event loop but the loading itself."""

    def __init__(
        self,
        reader: Reader,
        outbox: Outbox,
        *,
        input_topic: str,
        on_ready: Callable[[], object] = lambda: None,
        on_loaded: Callable[[Loaded, float], object] = lambda loaded, seconds: None,
        end: EndProcess = end_process,
        now: Clock = time.monotonic,
    ) -> None:
        self._reader = reader
        self._outbox = outbox
        self._input_topic = input_topic
        self._on_ready = on_ready
        self._on_loaded = on_loaded
        self._end = end
        self._now = now
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="loading")
        self._generation: int | None = None
        self._abandoned = threading.Event()
        self.lanes: Lanes = {}
        self.unsettled_since: float | None = now()
        """Monotonic time at which the assignment began to change; None while settled."""
        self.recovery_share = 0.0
        """Share of the table's log that was loaded, 0 to 1."""
        self.rebalances = 0

    @property
    def settled(self) -> bool:
        """True when the assignment is final and its tables are loaded; also with no partition at all."""
        return self.unsettled_since is None

    def unsettle(self) -> None:
        """A rebalance began: what is being loaded is not wanted any more, and everything in flight has to go out."""
        if self.unsettled_since is None:
            self.unsettled_since = self._now()
        self._abandoned.set()
        self._outbox.hasten()

    async def drain(self) -> None:
        """Return when everything in flight is durable and acknowledged; a rebalance or a stop waits for it."""
        await self._outbox.drain()

    async def assign(self, partitions: Set[int], generation: int) -> None:
        """A generation of the group gave us these partitions: forget what we may not keep."""
        self.unsettle()
        drained = self._outbox.idle
        if not drained:
            # What an earlier generation applied must be in the log before that log is read.
            await self._outbox.drain()
        unbroken = self._generation is not None and generation == self._generation + 1
        self._generation = generation
        self.rebalances += 1
        kept = {p: lane for p, lane in self.lanes.items() if p in partitions} if unbroken and drained else {}
        self.lanes.clear()
        self.lanes.update(kept)
        _log.info("partitions_assigned", generation=generation, partitions=sorted(partitions), kept=sorted(self.lanes))

    async def load(self, partitions: Set[int]) -> None:
        """Load what is missing, then let the inputs flow. Errors end the process."""
        generation, abandoned = self._generation, threading.Event()
        self._abandoned = abandoned
        missing, kept = sorted(partitions - self.lanes.keys()), sorted(partitions & self.lanes.keys())
        started_at = self._now()
        try:
            loop = asyncio.get_running_loop()
            loaded = await loop.run_in_executor(self._executor, self._load, missing, kept, abandoned)
            if generation != self._generation or abandoned.is_set():
                return
            self._install(loaded)
        except Abandoned:
            return
        except NewerMajorError as error:
            self._end(NewerVersion(str(error), where="table's log", advice="upgrade this worker"))
            return
        except Exception as error:
            self._end(error)
            return
        self._settle(loaded, self._now() - started_at)

    async def reload(self, lane: Lane) -> PartitionCore:
        """A fresh core of this partition from its log. Everything sent for it must be durable."""
        loop = asyncio.get_running_loop()
        load = partial(self._reader.load, [lane.partition], [], abandoned=threading.Event())
        loaded = await loop.run_in_executor(self._executor, load)
        gc.freeze()
        return loaded.cores[lane.partition]

    def close(self) -> None:
        """Stop loading."""
        self._abandoned.set()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _load(self, missing: list[int], kept: list[int], abandoned: threading.Event) -> Loaded:
        self.recovery_share = 0.0
        return self._reader.load(missing, kept, abandoned=abandoned, progress=self._progressed)

    def _progressed(self, share: float) -> None:
        self.recovery_share = share

    def _install(self, loaded: Loaded) -> None:
        now = self._now()
        for partition, core in loaded.cores.items():
            bounds = loaded.bounds[partition]
            first = first_offset(core.applied, bounds, where=f"{self._input_topic}[{partition}]")
            trial = next_trial(loaded.trials.get(partition), first, bounds.end)
            self.lanes[partition] = Lane(partition, core, first, bounds, now, trial)
        for partition, lane in self.lanes.items():
            if partition not in loaded.cores:
                bounds = loaded.bounds[partition]
                first_offset(lane.next_offset - 1, bounds, where=f"{self._input_topic}[{partition}]")
                lane.bounds, lane.moved_at = bounds, now

    def _settle(self, loaded: Loaded, seconds: float) -> None:
        if loaded.cores:
            # Rows live as long as the partition is ours: the collector need never look at them again.
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLDS)
        self.recovery_share = 1.0
        paused = self._now() - self.unsettled_since if self.unsettled_since is not None else 0.0
        self.unsettled_since = None
        self._outbox.relax()
        self._on_ready()
        self._on_loaded(loaded, seconds)
        _log.info(
            "tables_loaded",
            partitions=sorted(loaded.cores),
            rows=loaded.rows,
            seconds=round(seconds, 3),
            paused_seconds=round(paused, 3),
        )
