"""A worker is killed, stopped, frozen and joined by another under load: nothing is lost, nothing differs."""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.runtime.settings import KafkaSettings
from infra.runtime.topics import VM_OBSERVATIONS
from infra.stack.endpoints import Endpoints
from tests.integration.streams.fleet import Line, commit_offsets

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(180)]


@contextmanager
def _load(line: Line, inputs: int, rate: float) -> Iterator[threading.Thread]:
    """Work written by another thread while the block runs; it has all been written at its end."""
    writer = threading.Thread(target=line.work, args=(inputs,), kwargs={"rate": rate})
    writer.start()
    try:
        yield writer
    finally:
        writer.join()


def test_changes_flow_and_a_stop_in_order_leaves_nothing_to_repeat(line: Line) -> None:
    line.start()
    line.wait_until_loaded()
    line.work(2_000)
    line.wait_until_done()
    assert line.stop() == 0
    assert line.verify() == 0
    ends = {partition: offset for partition, offset in line.committed().items() if offset >= 0}
    assert sum(ends.values()) == 2_000
    line.start()
    line.wait_until_loaded(times=2)
    line.work(100, seed=2)
    line.wait_until_done()
    assert line.verify() == 0


def test_kill_under_load_three_times(line: Line) -> None:
    line.start()
    line.wait_until_loaded()
    with _load(line, 9_000, rate=600):
        for kills in range(1, 4):
            time.sleep(2.5)
            assert line.stop(number=signal.SIGKILL) == -signal.SIGKILL
            line.start()
            line.wait_until_loaded(times=kills + 1)
    line.wait_until_done()
    line.verify()
    assert line.stop() == 0


def test_stop_in_order_under_load(line: Line) -> None:
    line.start()
    line.wait_until_loaded()
    with _load(line, 5_000, rate=1_000):
        time.sleep(2)
        assert line.stop() == 0
        line.start()
    line.wait_until_done()
    assert line.verify() == 0


def test_a_second_worker_joins_and_leaves_under_load(line: Line) -> None:
    line.start("1")
    line.wait_until_loaded("1")
    with _load(line, 12_000, rate=500):
        time.sleep(1)
        line.start("2")
        line.wait_until_loaded("2")
        line.wait_until_loaded("1", times=2)
        time.sleep(3)
        assert line.stop("2") == 0
        line.wait_until_loaded("1", times=3)
    line.wait_until_done()
    assert line.verify() == 0
    assert '"kept": [' in line.log("1")


def test_a_worker_without_partitions_waits_and_takes_over(endpoints: Endpoints, tmp_path: Path) -> None:
    """The second worker also makes a rebalance before the first commit, in which Faust alone loses what it fetched."""
    kafka = KafkaSettings(bootstrap=endpoints.kafka, topic_prefix=f"line-{uuid.uuid4().hex[:8]}.")
    line = Line(kafka=kafka, directory=tmp_path, partitions=1)
    line.create_topics()
    try:
        for name in ("1", "2"):
            line.start(name)
            line.wait_until_loaded(name)
        line.work(300)
        line.wait_until_done()
        owner = next(name for name in ("1", "2") if _owns_something(line, name))
        assert '"ok": true' in line.get("/readyz", "1")
        assert '"ok": true' in line.get("/readyz", "2")
        line.stop(owner, signal.SIGKILL)
        line.work(300, seed=2)
        line.wait_until_done()
        line.verify()
    finally:
        line.close()


def test_a_worker_that_stood_still_ends_itself(line: Line) -> None:
    worker = line.start("1")
    line.wait_until_loaded("1")
    with _load(line, 8_000, rate=500):
        time.sleep(1)
        worker.send_signal(signal.SIGSTOP)
        line.start("2")
        line.wait_until_loaded("2")
        time.sleep(6)
        worker.send_signal(signal.SIGCONT)
        assert worker.wait(20) == 71
        line.start("1")
    line.wait_until_done()
    line.verify()


def test_inputs_applied_before_are_acknowledged_and_no_more(line: Line) -> None:
    """The group forgets its offsets: everything comes again, and every input is a repeat."""
    line.start()
    line.wait_until_loaded()
    line.work(500)
    line.wait_until_done()
    assert line.stop(number=signal.SIGKILL) == -signal.SIGKILL
    before = len(line.read(VM_OBSERVATIONS))
    commit_offsets(line, dict.fromkeys(range(line.partitions), 0))
    line.start()
    line.wait_until_loaded(times=2)
    deadline = time.monotonic() + 20
    while sum(line.committed().values()) < 500:
        assert time.monotonic() < deadline, line.committed()
        time.sleep(0.2)
    assert len(line.read(VM_OBSERVATIONS)) == before
    # Figures are picked up once a second.
    while "deltavisor_hosts_repeats_records_total 500.0" not in line.get("/metrics"):
        assert time.monotonic() < deadline, line.get("/metrics")
        time.sleep(0.2)


def _owns_something(line: Line, name: str) -> bool:
    """Whether the worker's last assignment had a partition."""
    assigned = [text for text in line.log(name).splitlines() if '"partitions_assigned"' in text]
    return '"partitions": [0]' in assigned[-1]
