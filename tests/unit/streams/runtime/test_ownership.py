"""When memory survives a rebalance, and what happens to a load that is not wanted any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

from infra.runtime.errors import NewerVersion, TopicMismatch
from schemas.codec import NewerMajorError
from streams.runtime.continuity import InputBounds
from streams.runtime.loading import Abandoned, Loaded
from streams.runtime.outbox import Outbox
from streams.runtime.ownership import Ownership
from streams.runtime.stage import Input
from tests.unit.streams.runtime.doubles import EchoCore, FakeRecord, Journal, JournalFeed, JournalSender


class FakeReader:
    """Gives fresh cores that have applied up to `applied`; the input ends at `end`."""

    def __init__(self, applied: int = 4, end: int = 5) -> None:
        self.applied = applied
        self.end = end
        self.asked: list[tuple[list[int], list[int]]] = []
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def load(
        self,
        partitions: Sequence[int],
        kept: Sequence[int],
        *,
        abandoned: threading.Event,
        progress: Callable[[float], object] = lambda share: None,
    ) -> Loaded:
        self.asked.append((list(partitions), list(kept)))
        assert self.gate.wait(5)
        if abandoned.is_set():
            raise Abandoned
        if self.error is not None:
            raise self.error
        bounds = {p: InputBounds(start=0, end=self.end, committed=2) for p in (*partitions, *kept)}
        return Loaded(cores={p: EchoCore(p, self.applied) for p in partitions}, bounds=bounds, rows=7)


class Bench:
    """An ownership over a fake reader and an outbox that runs while the scenario does."""

    def __init__(self, **reader: int) -> None:
        self.journal = Journal()
        self.sender = JournalSender(self.journal)
        self.outbox = Outbox(self.sender, max_in_flight=1_000, calm_seconds=60)
        self.reader = FakeReader(**reader)
        self.errors: list[BaseException] = []
        self.ready = 0
        self.ownership = Ownership(
            self.reader,
            self.outbox,
            input_topic="in",
            on_ready=self._count_ready,
            end=self.errors.append,
        )

    def _count_ready(self) -> None:
        self.ready += 1

    async def generation(self, number: int, partitions: set[int]) -> None:
        self.ownership.unsettle()
        await self.ownership.assign(partitions, number)
        await self.ownership.load(partitions)

    def run(self, scenario: Callable[[Bench], object]) -> None:
        async def main() -> None:
            task = asyncio.create_task(self.outbox.run())
            found = scenario(self)
            assert asyncio.iscoroutine(found)
            await asyncio.wait_for(found, 5)
            task.cancel()
            await asyncio.gather(task)
            self.outbox.close()
            self.ownership.close()

        asyncio.run(main())


def test_the_first_assignment_loads_everything() -> None:
    async def scenario(bench: Bench) -> None:
        assert bench.ownership.unsettled_since is not None
        await bench.generation(1, {0, 1})
        assert bench.ownership.settled
        assert {p: lane.next_offset for p, lane in bench.ownership.lanes.items()} == {0: 5, 1: 5}
        assert bench.ready == 1
        assert bench.ownership.lanes[0].caught_up

    bench = Bench()
    bench.run(scenario)
    assert bench.reader.asked == [([0, 1], [])]


def test_memory_survives_an_unbroken_and_drained_generation() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.generation(1, {0, 1})
        kept = bench.ownership.lanes[0]
        await bench.generation(2, {0, 2})
        assert bench.ownership.lanes[0] is kept
        assert bench.ownership.lanes.keys() == {0, 2}

    bench = Bench()
    bench.run(scenario)
    assert bench.reader.asked[1] == ([2], [0])


def test_memory_does_not_survive_a_missed_generation() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.generation(1, {0, 1})
        forgotten = bench.ownership.lanes[0]
        await bench.generation(3, {0, 1})
        assert bench.ownership.lanes[0] is not forgotten

    bench = Bench()
    bench.run(scenario)
    assert bench.reader.asked[1] == ([0, 1], [])


def test_what_was_in_flight_is_drained_before_the_log_is_read_and_memory_goes() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.generation(1, {0})
        core = bench.ownership.lanes[0].core
        record = Input(0, 5, 0, b"quiet", b"", None)
        event = FakeRecord(0, 5)
        bench.outbox.put(0, core, JournalFeed(bench.journal), event, core.apply(record))
        await bench.generation(2, {0})
        assert bench.outbox.in_flight == 0
        assert bench.ownership.lanes[0].core is not core

    bench = Bench()
    bench.run(scenario)
    assert [step.what for step in bench.journal.steps] == ["output", "row", "ack"]
    assert bench.reader.asked[1] == ([0], [])


def test_a_load_overtaken_by_another_rebalance_changes_nothing() -> None:
    async def scenario(bench: Bench) -> None:
        bench.ownership.unsettle()
        await bench.ownership.assign({0}, 1)
        bench.reader.gate.clear()
        overtaken = asyncio.create_task(bench.ownership.load({0}))
        await asyncio.sleep(0.02)
        bench.ownership.unsettle()
        bench.reader.gate.set()
        await overtaken
        assert bench.ownership.lanes == {}
        assert not bench.ownership.settled
        await bench.ownership.assign({1}, 2)
        await bench.ownership.load({1})
        assert bench.ownership.lanes.keys() == {1}

    bench = Bench()
    bench.run(scenario)
    assert bench.errors == []


def test_no_partition_at_all_is_settled_too() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.generation(1, set())
        assert bench.ownership.settled

    Bench().run(scenario)


def test_a_newer_table_ends_the_process() -> None:
    async def scenario(bench: Bench) -> None:
        bench.reader.error = NewerMajorError("HostRow/2.0 was written by another major version")
        await bench.generation(1, {0})
        assert not bench.ownership.settled

    bench = Bench()
    bench.run(scenario)
    assert [type(error) for error in bench.errors] == [NewerVersion]


def test_an_input_log_that_ends_too_early_ends_the_process() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.generation(1, {0})

    bench = Bench(applied=9, end=5)
    bench.run(scenario)
    assert [type(error) for error in bench.errors] == [TopicMismatch]
