"""The clock is a watermark: it waits for the slowest partition, and for none that is stuck for good (design §5)."""

from streams.vms.clock import Clock, Standing

SECOND = 1_000_000_000


def heard(clock: Clock, source: int, tick: int, log: int = 0) -> bool:
    return clock.hear(source, log, tick, tick * SECOND).risen


def test_stands_still_until_every_partition_was_heard_once() -> None:
    clock = Clock(3)
    for tick in range(1, 5):
        heard(clock, 0, tick)
        heard(clock, 1, tick)
    assert (clock.ticks, clock.time) == (0, 0)
    heard(clock, 2, 9)
    assert (clock.ticks, clock.time) == (0, 4 * SECOND)


def test_time_is_the_oldest_and_ticks_rise_by_the_smallest_gain() -> None:
    clock = Clock(2)
    heard(clock, 0, 10)
    heard(clock, 1, 50)
    assert clock.time == 10 * SECOND
    heard(clock, 0, 14)
    assert clock.ticks == 0
    heard(clock, 1, 52)
    assert (clock.ticks, clock.time) == (2, 14 * SECOND)
    heard(clock, 1, 55)
    assert clock.ticks == 2
    heard(clock, 0, 15)
    assert clock.ticks == 3


def test_a_stuck_partition_holds_both_readings() -> None:
    clock = Clock(2)
    heard(clock, 0, 1)
    heard(clock, 1, 1)
    for tick in range(2, 200):
        heard(clock, 0, tick)
    assert (clock.ticks, clock.time) == (0, SECOND)


def test_tick_zero_and_repeats_say_nothing() -> None:
    clock = Clock(1)
    assert not heard(clock, 0, 0)
    assert clock.sources[0].standing is Standing.WAITING
    heard(clock, 0, 3)
    heard(clock, 0, 4)
    assert not heard(clock, 0, 4)
    assert not heard(clock, 0, 2)
    assert clock.ticks == 1


def test_a_partition_without_a_tick_while_the_others_gained_300_is_left_out_until_it_caught_up() -> None:
    clock = Clock(3)
    for source in range(3):
        heard(clock, source, 1)
    left_out: list[int] = []
    for tick in range(2, 302):
        for source in (0, 1):
            left_out += clock.hear(source, 0, tick, tick * SECOND).left_out
    assert left_out == [2]
    assert clock.left_out(2)
    assert clock.ticks == 0, "durations do not jump by the standstill"
    heard(clock, 0, 302)
    heard(clock, 1, 302)
    assert clock.ticks == 1
    assert not clock.hear(2, 0, 2, 2 * SECOND).caught_up
    assert clock.hear(2, 0, 3, 290 * SECOND).caught_up
    assert not clock.left_out(2)
    assert clock.time >= 290 * SECOND


def test_a_partition_that_never_spoke_is_left_out_too() -> None:
    clock = Clock(2)
    for tick in range(1, 310):
        heard(clock, 0, tick)
    assert clock.left_out(1)
    assert clock.ticks > 0


def test_time_never_goes_back() -> None:
    clock = Clock(2)
    heard(clock, 0, 1)
    heard(clock, 1, 1)
    for tick in range(2, 320):
        heard(clock, 0, tick)
    reached = clock.time
    clock.hear(1, 0, 2, reached - 20 * SECOND)
    assert clock.time == reached


def test_a_topic_that_was_created_again_begins_its_ticks_anew() -> None:
    clock = Clock(1)
    heard(clock, 0, 500)
    heard(clock, 0, 501)
    clock.hear(0, 1, 1, 502 * SECOND)
    clock.hear(0, 1, 2, 503 * SECOND)
    assert (clock.ticks, clock.time) == (2, 503 * SECOND)
    assert not clock.hear(0, 0, 600, 600 * SECOND).risen


def test_evidence_older_than_the_newest_tick_by_30_seconds_is_late() -> None:
    clock = Clock(2)
    heard(clock, 0, 100)
    assert clock.is_late(69 * SECOND)
    assert not clock.is_late(70 * SECOND)
    assert not clock.caught_up(1)
