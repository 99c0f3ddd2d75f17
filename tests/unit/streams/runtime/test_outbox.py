"""Order, riding, bounds and failure of the outbox, with a sender that writes down what happens when."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import uvloop

from infra.runtime.errors import SelfFenced
from streams.runtime.outbox import CycleReport, Outbox
from streams.runtime.sender import DeliveryFailed
from streams.runtime.stage import Input
from tests.unit.streams.runtime.doubles import EchoCore, FakeRecord, Journal, JournalFeed, JournalSender

CALM_SECONDS = 0.2


class Bench:
    """An outbox with cores, fed by hand."""

    def __init__(self, *, max_in_flight: int = 10_000, failures_after: int | None = None) -> None:
        self.journal = Journal()
        self.sender = JournalSender(self.journal, failures_after)
        self.feed = JournalFeed(self.journal)
        self.cores = {partition: EchoCore(partition) for partition in range(3)}
        self.errors: list[BaseException] = []
        self.reports: list[CycleReport] = []
        self.fenced = False
        self.outbox = Outbox(
            self.sender,
            max_in_flight=max_in_flight,
            check_fence=self._check_fence,
            on_cycle=self.reports.append,
            end=self.errors.append,
            calm_seconds=CALM_SECONDS,
        )

    def put(self, partition: int, key: bytes = b"urgent") -> None:
        core = self.cores[partition]
        offset = core.applied + 1
        record = Input(partition, offset, 0, key, b"", None)
        event = FakeRecord(partition, offset)
        self.outbox.put(partition, core, self.feed, event, core.apply(record))

    def _check_fence(self) -> None:
        if self.fenced:
            raise SelfFenced("stood still")


def _run(bench: Bench, scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        task = asyncio.create_task(bench.outbox.run())
        try:
            await asyncio.wait_for(scenario(), 10)
        finally:
            task.cancel()
            await asyncio.gather(task)
            bench.outbox.close()

    # The loop of production: its timers differ from asyncio's own in what they return and how they round.
    uvloop.run(main())


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_outputs_then_rows_then_acknowledgements_in_order() -> None:
    bench = Bench()
    chance = random.Random(7)

    async def scenario() -> None:
        for _ in range(400):
            bench.put(chance.randrange(3), b"quiet" if chance.random() < 0.3 else b"urgent")
            if chance.random() < 0.1:
                await asyncio.sleep(chance.random() * 0.003)
        await bench.outbox.drain()

    _run(bench, scenario)
    outputs, rows, acks = (bench.journal.positions(what) for what in ("output", "row", "ack"))
    assert outputs.keys() == rows.keys() == acks.keys()
    assert len(acks) == 400
    assert all(outputs[place] < rows[place] < acks[place] for place in acks)
    for partition in range(3):
        offsets = [step.offset for step in bench.journal.steps if step.what == "ack" and step.partition == partition]
        assert offsets == list(range(len(offsets)))
    assert bench.outbox.in_flight == 0
    assert bench.errors == []


def test_no_acknowledgement_before_the_rows_of_the_same_wave_are_delivered() -> None:
    bench = Bench()

    async def scenario() -> None:
        bench.put(0)
        await _until(lambda: bool(bench.journal.positions("output")))
        await asyncio.sleep(0)
        assert bench.journal.positions("ack") == {} or bench.journal.positions("row") != {}
        await bench.outbox.drain()

    _run(bench, scenario)
    assert [step.what for step in bench.journal.steps] == ["output", "row", "ack"]


def test_rows_of_one_wave_travel_with_the_outputs_of_the_next() -> None:
    bench = Bench()

    async def scenario() -> None:
        bench.sender.gate.clear()
        bench.put(0)
        await asyncio.sleep(0.02)
        for _ in range(5):
            bench.put(1)
        bench.sender.gate.set()
        await bench.outbox.drain()

    _run(bench, scenario)
    assert bench.sender.sends == [(0, 1), (1, 5), (5, 0)]


def test_a_failed_delivery_ends_the_process_and_acknowledges_nothing_that_depends_on_it() -> None:
    bench = Bench(failures_after=1)

    async def scenario() -> None:
        bench.put(0)
        await _until(lambda: bool(bench.errors))

    _run(bench, scenario)
    (error,) = bench.errors
    assert isinstance(error, DeliveryFailed)
    assert error.exit_code == 70
    assert bench.journal.positions("ack") == {}


def test_a_fenced_process_sends_nothing() -> None:
    bench = Bench()
    bench.fenced = True

    async def scenario() -> None:
        bench.put(0)
        await _until(lambda: bool(bench.errors))

    _run(bench, scenario)
    assert isinstance(bench.errors[0], SelfFenced)
    assert bench.journal.steps == []


def test_quiet_work_waits_for_urgent_work_and_rides_with_it() -> None:
    bench = Bench()

    async def scenario() -> None:
        bench.put(0, b"quiet")
        await asyncio.sleep(CALM_SECONDS / 4)
        assert bench.sender.sends == []
        bench.put(1)
        await _until(lambda: len(bench.journal.positions("ack")) == 2)

    _run(bench, scenario)
    assert bench.sender.sends == [(0, 2), (2, 0)]


def test_quiet_work_alone_goes_after_the_calm_time() -> None:
    bench = Bench()

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        bench.put(0, b"quiet")
        await _until(lambda: len(bench.sender.sends) == 1)
        assert CALM_SECONDS * 0.9 <= loop.time() - started_at <= CALM_SECONDS * 3
        await _until(lambda: len(bench.journal.positions("ack")) == 1)
        assert loop.time() - started_at >= CALM_SECONDS * 1.8

    _run(bench, scenario)


def test_a_drain_does_not_wait_for_the_calm_time() -> None:
    bench = Bench()

    async def scenario() -> None:
        started_at = asyncio.get_running_loop().time()
        bench.put(0, b"quiet")
        await bench.outbox.drain()
        assert asyncio.get_running_loop().time() - started_at < CALM_SECONDS
        bench.outbox.relax()
        bench.put(0, b"quiet")
        await asyncio.sleep(CALM_SECONDS / 4)
        assert len(bench.journal.positions("output")) == 1

    _run(bench, scenario)


def test_nothing_counts_as_sent_while_a_wave_is_under_way() -> None:
    bench = Bench()

    async def scenario() -> None:
        bench.sender.gate.clear()
        bench.put(0)
        await asyncio.sleep(0.05)
        bench.put(0)
        bench.outbox.hold()
        assert [receipt.record.offset for receipt in bench.outbox.withdraw(0)] == [1]
        flushing = asyncio.create_task(bench.outbox.flush())
        bench.outbox.redeemed()
        draining = asyncio.create_task(bench.outbox.drain())
        await asyncio.sleep(0.05)
        assert not flushing.done()
        assert not draining.done()
        bench.sender.gate.set()
        await flushing
        assert [step.what for step in bench.journal.steps] == ["output", "row", "ack"]
        await draining

    _run(bench, scenario)
    assert bench.errors == []


def test_a_repeat_is_acknowledged_in_its_turn() -> None:
    bench = Bench()

    async def scenario() -> None:
        bench.put(0)
        bench.outbox.put_repeat(bench.feed, FakeRecord(1, 77))
        bench.put(0)
        await bench.outbox.drain()

    _run(bench, scenario)
    acks = [(step.partition, step.offset) for step in bench.journal.steps if step.what == "ack"]
    assert acks == [(0, 0), (1, 77), (0, 1)]


def test_what_is_in_flight_is_bounded() -> None:
    bench = Bench(max_in_flight=30)

    async def scenario() -> None:
        bench.sender.gate.clear()
        while not bench.outbox.full:
            bench.put(0, b"quiet")
        assert bench.outbox.in_flight == 30
        waiting = asyncio.create_task(bench.outbox.room())
        await asyncio.sleep(0.02)
        assert not waiting.done()
        bench.sender.gate.set()
        await waiting
        assert bench.outbox.in_flight <= 21

    _run(bench, scenario)


def test_reports_say_what_was_sent_and_acknowledged() -> None:
    bench = Bench()

    async def scenario() -> None:
        bench.put(0)
        bench.put(1)
        await bench.outbox.drain()

    _run(bench, scenario)
    assert [(len(report.outputs), report.rows, len(report.acknowledged)) for report in bench.reports] == [
        (2, 0, 0),
        (0, 2, 2),
    ]
    assert [report.urgent for report in bench.reports] == [False, True]
