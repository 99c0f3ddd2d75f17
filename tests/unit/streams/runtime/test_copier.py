"""Copies of intents: a chunk at a time behind what the core has, and again whatever did not arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from schemas.codec import decode, header_of
from schemas.intent import IntentCopy, is_signed
from streams.runtime.continuity import InputBounds
from streams.runtime.copier import Copier, CopySigner, Original
from streams.runtime.lanes import Lane, Lanes
from tests.unit.streams.runtime.doubles import EchoCore

SECRET = b"a secret of tests"
SIGNER = CopySigner(secret=SECRET, topic_id="topic")


class TakingCore(EchoCore):
    """Keeps the order of copies as the vms stage does."""

    next_intent = 0

    def take(self, copy: IntentCopy) -> None:
        if copy.previous < self.next_intent <= copy.offset:
            self.next_intent = copy.offset + 1


class Log:
    """vm.intents with these offsets, and an input log that may lose copies."""

    def __init__(self, lanes: Lanes, offsets: Sequence[int], *, lose: Sequence[int] = ()) -> None:
        self.lanes, self.offsets, self.lose = lanes, list(offsets), set(lose)
        self.end = dict.fromkeys(lanes, 0)
        self.written: list[IntentCopy] = []
        self.asked: list[Mapping[int, int]] = []
        self.closed = False

    def read(self, wanted: Mapping[int, int]) -> Mapping[int, Sequence[Original]]:
        self.asked.append(dict(wanted))
        return {
            partition: [Original(at, 5, b"key", b"Intent/1.0", b"v%d" % at) for at in self.offsets if at >= first][:2]
            for partition, first in wanted.items()
        }

    def send(self, copies: Mapping[int, Sequence[bytes]]) -> Mapping[int, int]:
        last: dict[int, int] = {}
        for partition, values in copies.items():
            for value in values:
                copy = decode(IntentCopy, value, header_of(IntentCopy))
                assert is_signed(SECRET, "topic", partition, copy)
                if copy.offset in self.lose:
                    self.lose.discard(copy.offset)
                    continue
                last[partition] = self.end[partition]
                self.end[partition] += 1
                self.written.append(copy)
                lane = self.lanes[partition]
                assert isinstance(lane.core, TakingCore)
                lane.core.take(copy)
                lane.next_offset = self.end[partition]
        return last

    def close(self) -> None:
        self.closed = True


def lanes_of(*partitions: int, caught_up: bool = True) -> Lanes:
    bounds = InputBounds(start=0, end=0 if caught_up else 100, committed=None)
    return {number: Lane(number, TakingCore(number), 0, bounds, 0.0) for number in partitions}


def copy_all(log: Log, lanes: Lanes, *, settled: bool = True) -> Copier:
    """Copy until there is nothing more."""
    copier = Copier(lanes, log, log.send, SIGNER, settled=lambda: settled)

    async def run() -> None:
        idle = 0
        while idle < 3:
            idle = 0 if await copier.copy() else idle + 1

    asyncio.run(run())
    copier.close()
    return copier


def next_of(lanes: Lanes, partition: int) -> int:
    core = lanes[partition].core
    assert isinstance(core, TakingCore)
    return core.next_intent


def test_everything_is_copied_once_in_order_and_signed() -> None:
    lanes = lanes_of(0, 1)
    log = Log(lanes, range(5))

    copier = copy_all(log, lanes)

    assert [copy.offset for copy in log.written if copy.value] == [0, 1, 0, 1, 2, 3, 2, 3, 4, 4]
    assert (copier.copied, next_of(lanes, 0), next_of(lanes, 1)) == (10, 5, 5)
    assert log.closed


def test_it_begins_where_the_core_is() -> None:
    lanes = lanes_of(0)
    core = lanes[0].core
    assert isinstance(core, TakingCore)
    core.next_intent = 3
    log = Log(lanes, range(5))

    copy_all(log, lanes)

    assert [(copy.previous, copy.offset) for copy in log.written] == [(2, 3), (3, 4)]


def test_what_retention_cut_is_stepped_over() -> None:
    lanes = lanes_of(0)
    log = Log(lanes, [40, 41])

    copy_all(log, lanes)

    assert [(copy.previous, copy.offset) for copy in log.written] == [(-1, 40), (40, 41)]
    assert next_of(lanes, 0) == 42


def test_a_copy_that_was_not_delivered_is_made_again_with_what_followed() -> None:
    lanes = lanes_of(0)
    log = Log(lanes, range(4), lose=[0, 2])

    copy_all(log, lanes)

    assert [copy.offset for copy in log.written] == [1, 0, 1, 3, 2, 3]
    assert next_of(lanes, 0) == 4


def test_nothing_is_read_for_partitions_that_are_behind_or_while_they_move() -> None:
    for lanes, settled in ((lanes_of(0, caught_up=False), True), (lanes_of(0), False), ({}, True)):
        log = Log(lanes, range(2))
        copy_all(log, lanes, settled=settled)
        assert log.asked == []


def test_a_partition_taken_away_meanwhile_is_left_to_others() -> None:
    lanes = lanes_of(0, 1)
    log = Log(lanes, range(2))
    read = log.read

    def lose_one(wanted: Mapping[int, int]) -> Mapping[int, Sequence[Original]]:
        found = read(wanted)
        lanes.pop(1, None)
        return found

    log.read = lose_one  # type: ignore[method-assign]
    copy_all(log, lanes)

    assert [copy.offset for copy in log.written] == [0, 1]


def test_copies_that_take_a_core_no_further_are_made_again_after_a_rest_only() -> None:
    lanes = lanes_of(0)
    core = lanes[0].core
    assert isinstance(core, TakingCore)
    core.take = lambda copy: None  # type: ignore[method-assign]
    log = Log(lanes, range(2))
    copier = Copier(lanes, log, log.send, SIGNER, settled=lambda: True)

    assert asyncio.run(copier.copy()) is False
    copier.close()
    assert [copy.offset for copy in log.written] == [0, 1]


def test_the_secret_is_not_shown() -> None:
    assert "secret" not in repr(SIGNER)
