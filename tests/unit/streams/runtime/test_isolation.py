"""An input that a core can not apply is found and put aside in the running process, and nothing else is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from infra.runtime.errors import FatalError, NewerVersion
from streams.runtime.continuity import InputBounds
from streams.runtime.intake import Intake
from streams.runtime.isolation import Isolation
from streams.runtime.lanes import Lane, Lanes
from streams.runtime.outbox import Outbox
from streams.runtime.sender import RECORD_OVERHEAD_BYTES, DeliveryFailed, Limits
from streams.runtime.stage import WHOLE, PartitionCore
from streams.runtime.trials import Trial, next_trial
from tests.unit.streams.runtime.doubles import EchoCore, FakeRecord, Journal, JournalFeed, JournalSender

BOUNDS = InputBounds(start=0, end=0, committed=None)
LIMIT = 900


class Bench:
    """Two lanes over a table's log that is the journal of what was delivered."""

    def __init__(self, trial: Trial | None = None) -> None:
        self.journal = Journal()
        self.sender = JournalSender(self.journal)
        self.feed = JournalFeed(self.journal)
        self.errors: list[BaseException] = []
        self.outbox = Outbox(
            self.sender,
            max_in_flight=10_000,
            end=self.errors.append,
            calm_seconds=0.05,
            check_batch=Limits({"out": LIMIT + RECORD_OVERHEAD_BYTES, "table": 10_000}, "table").check,
        )
        self.cores: list[EchoCore] = []
        self.lanes: Lanes = {p: Lane(p, EchoCore(p), 0, BOUNDS, 0.0) for p in (0, 1)}
        self.lanes[0].trial = trial
        self.isolation = Isolation(
            self.lanes,
            self.outbox,
            self._reload,
            input_topic="in",
            fits=lambda topic, size: size <= LIMIT,
            end=self.errors.append,
        )
        self.intake = Intake(
            self.lanes, self.outbox, input_topic="in", log_start=self._log_start, isolation=self.isolation
        )

    async def _log_start(self, partition: int) -> int:
        return 0

    async def _reload(self, lane: Lane) -> PartitionCore:
        """What is in the log, which must be all that was sealed."""
        await asyncio.sleep(0.01)
        delivered = [step for step in self.journal.steps if step.partition == lane.partition]
        rows = {step.offset for step in delivered if step.what == "row"}
        assert rows >= {step.offset for step in delivered if step.what == "output"}
        core = EchoCore(lane.partition, max(rows, default=-1))
        self.cores.append(core)
        return core

    async def take(self, *keys: bytes, partition: int = 0) -> None:
        for key in keys:
            offset = self.lanes[partition].next_offset if partition else self.taken
            self.taken += not partition
            await self.intake.take(self.feed, FakeRecord(partition, offset, key))

    taken = 0

    def values(self, partition: int = 0) -> list[bytes | None]:
        """The last output of every input of the partition, in order."""
        return [self.sender.values[(partition, b"%d/%d" % (partition, offset))] for offset in range(self.taken)]

    def acknowledged(self, partition: int = 0) -> list[int]:
        return [step.offset for step in self.journal.steps if step.what == "ack" and step.partition == partition]


def run(bench: Bench, scenario: Callable[[], Awaitable[None]]) -> None:
    """Run with the outbox; everything must be durable and acknowledged at the end."""

    async def main() -> None:
        task = asyncio.create_task(bench.outbox.run())
        try:
            await asyncio.wait_for(scenario(), 10)
            await asyncio.wait_for(bench.outbox.drain(), 10)
        finally:
            task.cancel()
            await asyncio.gather(task)
            bench.outbox.close()

    uvloop.run(main())


def test_what_raises_is_isolated_and_what_was_not_sent_yet_is_applied_again() -> None:
    bench = Bench()

    async def scenario() -> None:
        await bench.take(b"a", b"b")
        await asyncio.sleep(0.1)
        await bench.take(b"c", b"d", b"poison", b"e")

    run(bench, scenario)
    assert bench.values() == [b"", b"", b"", b"", b"apart", b""]
    assert bench.acknowledged() == list(range(6))
    assert [core.isolated for core in bench.cores] == [[(4, ())]]
    assert (b"half/0" in {key for _, key in bench.sender.values}) is False
    assert bench.outbox.in_flight == 0
    assert bench.isolation.isolated == 1
    assert bench.errors == []


def test_a_core_is_loaded_anew_only_when_the_wave_under_way_is_durable() -> None:
    bench = Bench()

    async def scenario() -> None:
        await bench.take(b"a")
        await bench.outbox.flush()
        bench.sender.gate.clear()
        await bench.take(b"b", b"c")
        await asyncio.sleep(0.05)
        taking = asyncio.create_task(bench.take(b"poison", b"d"))
        await asyncio.sleep(0.05)
        assert bench.cores == []
        bench.sender.gate.set()
        await taking

    run(bench, scenario)
    assert [core.gaps for core in bench.cores] == [[]]
    assert bench.values() == [b"", b"", b"", b"apart", b""]
    assert bench.acknowledged() == [0, 1, 2, 3, 4]


def test_others_go_on_with_what_they_had() -> None:
    bench = Bench()
    other = bench.lanes[1].core

    async def scenario() -> None:
        await bench.take(b"a", partition=1)
        await bench.take(b"poison")
        await bench.take(b"b", partition=1)

    run(bench, scenario)
    assert bench.lanes[1].core is other
    assert bench.acknowledged(1) == [0, 1]
    assert bench.acknowledged(0) == [0]


def test_two_poisons_in_a_row() -> None:
    bench = Bench()

    async def scenario() -> None:
        await bench.take(b"a", b"poison", b"poison", b"b")

    run(bench, scenario)
    assert bench.values() == [b"", b"apart", b"apart", b""]
    assert bench.acknowledged() == [0, 1, 2, 3]


@pytest.mark.parametrize("key", [b"large", b"unsealable"])
def test_a_batch_that_can_not_be_sent_is_made_again_with_care(key: bytes) -> None:
    bench = Bench()

    async def scenario() -> None:
        await bench.take(b"a", partition=1)
        await bench.take(b"a", b"b", key, b"c")
        await asyncio.sleep(0.1)
        await bench.take(b"d")

    run(bench, scenario)
    assert bench.values() == [b"apart", b"apart", b"apart", b"apart", b""]
    assert bench.acknowledged() == [0, 1, 2, 3, 4]
    assert bench.acknowledged(1) == [0]
    assert bench.errors == []


def test_what_care_does_not_help_is_left_out_whole() -> None:
    bench = Bench()

    async def scenario() -> None:
        await bench.take(b"a", b"hopeless", b"b")

    run(bench, scenario)
    assert bench.acknowledged() == [0, 1, 2]
    assert bench.cores[-1].isolated[-1][1] == (WHOLE,)
    assert bench.errors == []


def test_a_rebalance_waits_until_the_lane_is_whole() -> None:
    bench = Bench()
    order: list[str] = []

    async def rebalance() -> None:
        await bench.outbox.drain()
        order.append("drained")

    async def scenario() -> None:
        taking = asyncio.create_task(bench.take(b"poison"))
        await asyncio.sleep(0.002)
        waiting = asyncio.create_task(rebalance())
        await taking
        order.append("applied")
        await waiting

    run(bench, scenario)
    assert order == ["applied", "drained"]
    assert bench.acknowledged() == [0]


def test_a_partition_that_is_given_away_meanwhile_is_left_alone() -> None:
    bench = Bench()

    async def scenario() -> None:
        taking = asyncio.create_task(bench.take(b"poison"))
        await asyncio.sleep(0.002)
        bench.lanes.clear()
        with pytest.raises(FatalError, match="given away"):
            await taking
        bench.outbox.redeemed()

    run(bench, scenario)
    assert bench.journal.steps == []


def test_the_first_attempt_is_written_down_and_costs_nothing_more() -> None:
    bench = Bench(Trial(offset=0, attempts=1))

    async def scenario() -> None:
        await bench.take(b"a", b"b")

    run(bench, scenario)
    assert bench.sender.trials == [Trial(offset=0, attempts=1)]
    assert bench.lanes[0].trial is None
    assert bench.values() == [b"", b""]


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_a_rebalance_waits_for_an_input_whose_attempt_is_being_written_down(attempts: int) -> None:
    bench = Bench(Trial(offset=0, attempts=attempts, until=1))

    async def rebalance() -> None:
        assert not bench.outbox.idle
        await bench.outbox.drain()
        assert bench.acknowledged() == [0]
        bench.lanes.clear()

    async def scenario() -> None:
        bench.sender.gate.clear()
        taking = asyncio.create_task(bench.take(b"a"))
        await asyncio.sleep(0.05)
        assert bench.sender.trials == []
        waiting = asyncio.create_task(rebalance())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        bench.sender.gate.set()
        await asyncio.gather(taking, waiting)

    run(bench, scenario)
    assert bench.outbox.idle
    assert bench.errors == []


def test_the_second_attempt_makes_each_input_durable_before_the_next() -> None:
    bench = Bench(Trial(offset=0, attempts=2, until=2))

    async def scenario() -> None:
        await bench.take(b"a")
        assert bench.acknowledged() == [0]
        await bench.take(b"b", b"c")

    run(bench, scenario)
    steps = [step.what for step in bench.journal.steps if step.offset < 2]
    assert steps == ["output", "row", "ack"] * 2
    assert [trial.attempts for trial in bench.sender.trials] == [2, 1]


def test_the_third_attempt_marks_every_part_and_takes_the_mark_away() -> None:
    trial = Trial(offset=0, attempts=3, until=1, condemned=(b"other",))
    bench = Bench(trial)

    async def scenario() -> None:
        await bench.take(b"a", b"b")

    run(bench, scenario)
    assert [one.parts for one in bench.sender.trials] == [(WHOLE,), (b"part of 0",), ()]
    core = bench.lanes[0].core
    assert isinstance(core, EchoCore)
    assert core.isolated == [(0, (b"other",))]
    assert bench.values() == [b"apart", b""]


@pytest.mark.parametrize("attempts", [1, 2, 3, 6])
def test_an_input_that_is_newer_than_the_process_is_not_held_against_it(attempts: int) -> None:
    bench = Bench(Trial(offset=0, attempts=attempts, until=1))

    with pytest.raises(NewerVersion):
        asyncio.run(bench.take(b"newer"))

    written = bench.sender.trials[-1]
    assert next_trial(written, 0, 100).attempts == attempts
    assert bench.acknowledged() == []


@pytest.mark.parametrize("attempts", [2, 3, 4, 7])
def test_a_death_for_what_can_not_be_delivered_is_not_held_against_the_input(attempts: int) -> None:
    trial = Trial(offset=0, attempts=attempts, until=1, condemned=(b"one",), suspects=(b"other",))
    bench = Bench(trial)
    bench.sender.refuses_outputs = True

    run_until_it_ends(bench, b"a")
    assert isinstance(bench.errors[0], DeliveryFailed)
    assert next_trial(bench.sender.trials[-1], 0, 1) == trial
    assert bench.acknowledged() == []


def test_a_death_for_what_others_caused_is_not_held_against_the_input() -> None:
    bench = Bench(Trial(offset=0, attempts=4, until=1))
    bench.sender.refuses_outputs = True

    async def ahead() -> None:
        await bench.take(b"a", partition=1)

    run_until_it_ends(bench, b"a", ahead=ahead)
    assert isinstance(bench.errors[0], DeliveryFailed)
    assert bench.sender.trials == []


def test_a_mark_that_can_not_be_written_condemns_nothing() -> None:
    bench = Bench(Trial(offset=0, attempts=3, until=1))
    # The attempt and the mark of the first part are written, that of the second is not.
    bench.sender.fail_after(2)

    with pytest.raises(DeliveryFailed):
        asyncio.run(bench.take(b"two parts"))
    last = bench.sender.trials[-1]
    assert last.parts == (b"part of 0",)
    assert next_trial(last, 0, 1).condemned == ()


def test_a_death_behind_the_last_part_is_one_of_the_whole_input() -> None:
    bench = Bench(Trial(offset=0, attempts=3, until=1))

    async def scenario() -> None:
        await bench.take(b"tail")

    run(bench, scenario)
    assert [one.parts for one in bench.sender.trials] == [(WHOLE,), (b"part of 0",), (WHOLE,), ()]


def run_until_it_ends(bench: Bench, key: bytes, ahead: Callable[[], Awaitable[None]] | None = None) -> None:
    """Take an input and wait until the outbox ends the process."""

    async def main() -> None:
        if ahead is not None:
            await ahead()
        sending = asyncio.create_task(bench.outbox.run())
        taking = asyncio.create_task(bench.take(key))
        await asyncio.wait_for(sending, 10)
        # What it does wrongly it does at once.
        await asyncio.wait({taking}, timeout=0.1)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        bench.outbox.close()

    uvloop.run(main())
