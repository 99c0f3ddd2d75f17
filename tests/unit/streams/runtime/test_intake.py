"""Repeats, holes, gaps, strays and errors between the consumer and the cores."""

from __future__ import annotations

import asyncio

import pytest

from infra.runtime.errors import FatalError, NewerVersion, OffsetHole
from streams.runtime.continuity import InputBounds
from streams.runtime.intake import Intake, LogStart
from streams.runtime.isolation import Isolation
from streams.runtime.lanes import Lane, Lanes
from streams.runtime.outbox import Outbox
from streams.runtime.stage import PartitionCore
from tests.unit.streams.runtime.doubles import EchoCore, FakeRecord, Journal, JournalFeed, JournalSender

BOUNDS = InputBounds(start=0, end=0, committed=None)


class Bench:
    """An intake with one lane, partition 0, next offset 10; the log starts where `log_start` says."""

    def __init__(self, log_start: int = 0) -> None:
        self.journal = Journal()
        self.feed = JournalFeed(self.journal)
        self.outbox = Outbox(JournalSender(self.journal), max_in_flight=1_000, end=lambda error: None)
        self.core = EchoCore(0, applied=9)
        self.lanes: Lanes = {0: Lane(0, self.core, 10, BOUNDS, 0.0)}
        self.log_start = log_start
        self.intake = self.make_intake(self._ask)

    def make_intake(self, log_start: LogStart) -> Intake:
        isolation = Isolation(self.lanes, self.outbox, self._reload, input_topic="in")
        return Intake(
            self.lanes, self.outbox, input_topic="in", log_start=log_start, isolation=isolation, now=lambda: 5.0
        )

    async def _reload(self, lane: Lane) -> PartitionCore:
        raise AssertionError("nothing is to be mended here")

    async def _ask(self, partition: int) -> int:
        return self.log_start

    def take(self, offset: int, key: bytes | None = None, partition: int = 0) -> None:
        message = FakeRecord(partition, offset, key, headers=(("schema", b"Work/1.0"),))
        asyncio.run(self.intake.take(self.feed, message))


def test_the_next_offset_is_applied_with_time_and_schema() -> None:
    bench = Bench()
    bench.take(10, b"key")
    (record,) = bench.core.inputs
    assert record.appended_at == 1_700_000_000_123_000_000
    assert (record.offset, record.key, record.value, record.schema) == (10, b"key", b"value", b"Work/1.0")
    assert bench.lanes[0].next_offset == 11
    assert bench.lanes[0].moved_at == 5.0
    assert bench.outbox.in_flight == 3


def test_a_repeat_never_reaches_the_core() -> None:
    bench = Bench()
    bench.take(3)
    assert bench.core.inputs == []
    assert bench.intake.repeats == 1
    assert bench.outbox.in_flight == 1


def test_a_hole_is_never_applied() -> None:
    bench = Bench(log_start=5)
    with pytest.raises(OffsetHole, match=r"in\[0\]: expected offset 10, got 12, and the log starts at 5"):
        bench.take(12)
    assert bench.core.inputs == []
    assert bench.lanes[0].next_offset == 10


def test_a_gap_below_the_start_of_the_log_is_told_to_the_core_first() -> None:
    bench = Bench(log_start=12)
    bench.take(12)
    assert bench.core.gaps == [(10, 12)]
    assert [record.offset for record in bench.core.inputs] == [12]
    assert bench.intake.gaps == 1


def test_an_event_of_a_partition_that_is_not_ours_is_left_alone() -> None:
    bench = Bench()
    bench.take(0, partition=3)
    assert bench.intake.strays == 1
    assert bench.outbox.in_flight == 0


def test_a_partition_taken_away_while_the_log_was_asked_is_left_alone() -> None:
    bench = Bench(log_start=12)

    async def taken_away(partition: int) -> int:
        bench.lanes.clear()
        return 12

    bench.intake = bench.make_intake(taken_away)
    bench.take(12)
    assert bench.intake.strays == 1
    assert bench.core.gaps == []


def test_nothing_is_begun_once_a_rebalance_waits_for_the_outbox() -> None:
    bench = Bench(log_start=12)

    async def rebalance_began(partition: int) -> int:
        bench.outbox.hasten()
        return 12

    bench.intake = bench.make_intake(rebalance_began)
    bench.take(12)
    assert bench.intake.strays == 1
    assert bench.outbox.in_flight == 0
    assert bench.lanes[0].next_offset == 10


def test_a_newer_major_stops_with_its_place() -> None:
    with pytest.raises(NewerVersion, match=r"in\[0\]@10: Work/2\.0"):
        Bench().take(10, b"newer")


def test_a_core_that_loses_count_is_stopped() -> None:
    with pytest.raises(FatalError, match="applied offset 9, it was given 10"):
        Bench().take(10, b"liar")
