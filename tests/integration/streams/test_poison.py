"""Inputs that raise, make a record too large, or kill the process: found, put aside, and nothing else lost."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from infra.runtime.topics import DEAD_LETTERS
from tests.integration.streams.fleet import Line

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(180)]

BOUND_SECONDS = 5.0
"""I9."""


def _letters(line: Line) -> list[bytes | None]:
    return [message.key() for message in line.read(DEAD_LETTERS)]


def test_an_input_that_raises_ends_no_process_and_holds_up_nobody(line: Line) -> None:
    worker = line.start()
    line.wait_until_loaded()
    writer = threading.Thread(target=line.work, args=(3_000,), kwargs={"rate": 500})
    writer.start()
    time.sleep(2)
    asked_at = time.monotonic()
    line.write(2, [b"before", b"poison-1", b"behind"])
    line.write(1, [b"large-1", b"besides"])
    line.producer.flush(10)
    while len(_letters(line)) < 2:
        assert time.monotonic() - asked_at < 60, line.log()
        time.sleep(0.05)
    isolated_after = time.monotonic() - asked_at
    writer.join()
    line.wait_until_done()
    line.verify()
    assert sorted(filter(None, _letters(line))) == [b"large-1", b"poison-1"]
    assert worker.poll() is None
    assert line.log().count('"input_not_applicable"') == 2
    assert line.stop() == 0
    # The bound holds for a machine of its own; here five may share it.
    assert isolated_after < 5 * BOUND_SECONDS, isolated_after
    print(f"isolated after {isolated_after:.2f} s")


def test_an_input_that_kills_the_process_is_found_by_the_restarts(line: Line) -> None:
    began_at = time.monotonic()
    line.work(40, seed=3)
    line.write(0, [b"before", b"deadly-1", b"behind"])
    line.work(40, seed=4)
    deaths = 0
    while True:
        worker = line.start()
        if _lives(line, worker.wait):
            break
        assert worker.returncode == -signal.SIGKILL, line.log()
        deaths += 1
        assert deaths <= 5, line.log()
    line.wait_until_done()
    found_after = time.monotonic() - began_at
    line.verify()
    assert _letters(line) == [b"deadly-1"]
    assert deaths >= 3
    assert line.stop() == 0
    print(f"found after {deaths} deaths, {found_after:.1f} s without the supervisor's delays")


def _lives(line: Line, wait: object) -> bool:
    """Whether the worker just started gets through everything."""
    worker = line.workers["1"]
    while worker.poll() is None:
        try:
            line.wait_until_done(seconds=1)
        except AssertionError:
            continue
        return True
    return False


def test_restarts_in_order_and_kills_that_get_further_count_against_nobody(line: Line) -> None:
    for seed, number in enumerate([signal.SIGTERM, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGKILL]):
        line.start()
        line.wait_until_loaded(times=seed + 1)
        line.work(20, seed=seed)
        line.wait_until_done()
        line.stop(number=number)
    line.start()
    line.wait_until_loaded(times=6)
    line.work(20, seed=9)
    line.wait_until_done()
    assert _letters(line) == []
    assert "input_ends_processes" not in line.log()
    line.verify()
