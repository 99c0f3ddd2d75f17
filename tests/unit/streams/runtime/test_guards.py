"""The self-fence, progress and recovery, each with a clock of its own."""

from __future__ import annotations

import pytest

from infra.runtime.errors import SelfFenced
from streams.runtime.continuity import InputBounds
from streams.runtime.guards import Fence, Progress
from streams.runtime.lanes import Lane, Lanes
from tests.unit.streams.runtime.doubles import EchoCore


class Clock:
    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def test_a_loop_that_stood_still_too_long_is_fenced() -> None:
    clock = Clock()
    fence = Fence(10.0, clock)
    clock.at += 7.9
    fence.beat()
    clock.at += 8.1
    with pytest.raises(SelfFenced, match=r"stood still for 8\.1 s, limit 8\.0 s"):
        fence.check()
    with pytest.raises(SelfFenced):
        fence.beat()


def _lanes(next_offset: int, moved_at: float) -> Lanes:
    bounds = InputBounds(start=0, end=0, committed=None)
    return {0: Lane(0, EchoCore(0), next_offset, bounds, moved_at)}


def test_a_partition_with_records_that_does_not_move_is_stuck() -> None:
    clock = Clock()
    lanes = _lanes(10, clock.at)
    progress = Progress(lanes, deadline_seconds=60, now=clock)
    progress.ends_are({0: 13})
    clock.at += 59
    assert progress.stuck() is None
    clock.at += 2
    assert progress.stuck() == "partition 0 has 3 records to read and none was for 61 s"
    lanes[0].moved_at = clock.at
    assert progress.stuck() is None


def test_a_quiet_partition_is_not_stuck_and_its_clock_starts_with_the_first_record() -> None:
    clock = Clock()
    progress = Progress(_lanes(10, clock.at), deadline_seconds=60, now=clock)
    for _ in range(30):
        clock.at += 10
        progress.ends_are({0: 10})
        assert progress.stuck() is None
    progress.ends_are({0: 11})
    assert progress.stuck() is None
    clock.at += 61
    assert progress.stuck() is not None


def test_a_partition_that_was_given_away_is_forgotten() -> None:
    lanes = _lanes(0, 0.0)
    progress = Progress(lanes, deadline_seconds=60)
    progress.ends_are({0: 5})
    lanes.clear()
    progress.ends_are({})
    assert progress.lags == {}
    assert progress.stuck() is None
