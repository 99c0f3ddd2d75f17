"""When a tick is written, with which number, and that only one is ever on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import decode, header_of
from schemas.tick import Tick, verify_tick
from streams.runtime.continuity import InputBounds
from streams.runtime.lanes import Lane, Lanes
from streams.runtime.ticks import Ticker, TickLine, TickSigner
from tests.unit.streams.runtime.doubles import EchoCore

SECRET = b"a secret of tests"
SIGNER = TickSigner(secret=SECRET, topic_id="topic", rules_version=3, owner=bytes(16))


def test_no_tick_before_the_partition_has_caught_up() -> None:
    line = TickLine()
    assert line.due(caught_up=False, next_offset=3, expected=1) is None
    assert line.due(caught_up=True, next_offset=5, expected=1) == 1


def test_the_next_tick_waits_until_the_last_was_delivered_and_applied() -> None:
    line = TickLine()
    line.sending()
    assert line.due(caught_up=True, next_offset=5, expected=1) is None
    line.delivered(7)
    assert line.due(caught_up=True, next_offset=7, expected=1) is None
    assert line.due(caught_up=True, next_offset=8, expected=2) == 2


def test_after_a_refused_tick_the_expected_number_is_read_again() -> None:
    line = TickLine()
    line.sending()
    line.delivered(7)
    assert line.due(caught_up=True, next_offset=8, expected=1) == 1


def test_an_undelivered_tick_is_written_again() -> None:
    line = TickLine()
    line.sending()
    line.failed()
    assert line.due(caught_up=True, next_offset=0, expected=4) == 4


@given(st.lists(st.sampled_from(["ask", "deliver", "fail", "apply"]), max_size=60))
def test_never_more_than_one_tick_is_on_its_way(steps: list[str]) -> None:
    line, log_end, next_offset, unapplied, sending = TickLine(), 0, 0, 0, False
    for step in steps:
        if step == "ask" and line.due(caught_up=True, next_offset=next_offset, expected=1) is not None:
            assert not sending
            assert unapplied == 0
            line.sending()
            sending = True
        elif step == "deliver" and sending:
            line.delivered(log_end)
            log_end, unapplied, sending = log_end + 1, 1, False
        elif step == "fail" and sending:
            line.failed()
            sending = False
        elif step == "apply":
            next_offset, unapplied = log_end, 0


def _lane(partition: int, *, caught_up: bool = True) -> Lane:
    end = 0 if caught_up else 100
    return Lane(partition, EchoCore(partition), 0, InputBounds(start=0, end=end, committed=None), 0.0)


def test_all_partitions_are_ticked_together_and_signed_for_their_place() -> None:
    sent: list[Mapping[int, bytes]] = []

    def send(ticks: Mapping[int, bytes]) -> Mapping[int, int]:
        sent.append(ticks)
        return {partition: 0 for partition in ticks if partition != 2}

    lanes: Lanes = {0: _lane(0), 1: _lane(1, caught_up=False), 2: _lane(2)}
    ticker = Ticker(lanes, send, SIGNER, settled=lambda: True)

    async def scenario() -> None:
        await ticker.tick()
        lanes[0].next_offset = 1
        await ticker.tick()
        ticker.close()

    asyncio.run(scenario())
    assert [sorted(ticks) for ticks in sent] == [[0, 2], [0, 2]]
    assert (ticker.written, ticker.failures) == (2, 2)
    tick = decode(Tick, sent[0][2], header_of(Tick))
    assert (tick.n, tick.rules_version) == (1, 3)
    assert verify_tick(SECRET, "topic", 2, tick)
    assert not verify_tick(SECRET, "topic", 0, tick)


def test_nothing_is_ticked_while_the_assignment_changes() -> None:
    sent: list[Mapping[int, bytes]] = []

    def send(ticks: Mapping[int, bytes]) -> Mapping[int, int]:
        sent.append(ticks)
        return {}

    settled = False
    ticker = Ticker({0: _lane(0)}, send, SIGNER, settled=lambda: settled, tick_seconds=0.01)

    async def scenario() -> None:
        nonlocal settled
        task = asyncio.create_task(ticker.run())
        await asyncio.sleep(0.05)
        assert sent == []
        settled = True
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task)
        ticker.close()

    asyncio.run(scenario())
    assert sent != []


def test_a_signer_does_not_print_its_secret() -> None:
    assert SECRET.decode() not in repr(SIGNER)
