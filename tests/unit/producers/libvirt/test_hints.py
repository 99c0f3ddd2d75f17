"""The queue between libvirt's thread and ours."""

from __future__ import annotations

import threading
import time

from producers.libvirt.chronicle import Event, EventKind
from producers.libvirt.hints import HintQueue
from schemas.ids import VmId


def event(number: int) -> Event:
    return Event(VmId(number.to_bytes(16)), EventKind.HINT, (), number)


def test_events_keep_their_order() -> None:
    queue = HintQueue()
    for number in range(5):
        queue.put(event(number))
    assert queue.wait(0)
    assert queue.drain() == ([event(number) for number in range(5)], False)
    assert queue.drain() == ([], False)
    assert not queue.wait(0)


def test_overflow_loses_the_new_ones_and_says_so_once() -> None:
    queue = HintQueue(max_events=2)
    for number in range(4):
        queue.put(event(number))
    assert queue.drain() == ([event(0), event(1)], True)
    queue.put(event(9))
    assert queue.drain() == ([event(9)], False)


def test_waiter_is_woken_by_an_event_and_by_a_poke() -> None:
    queue = HintQueue()
    for wake in (lambda: queue.put(event(1)), queue.poke):
        timer = threading.Timer(0.02, wake)
        timer.start()
        began = time.monotonic()
        assert queue.wait(5)
        assert time.monotonic() - began < 2
        timer.join()
        queue.drain()
