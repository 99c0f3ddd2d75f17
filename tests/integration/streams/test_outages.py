"""The broker goes away under load and comes back: the worker rides it out or restarts, and nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.runtime.settings import KafkaSettings
from infra.stack.settings import StackSettings
from infra.stack.stack import Stack
from tests.integration.streams.fleet import Line

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def stack() -> Iterator[Stack]:
    """A stack whose broker may be killed without disturbing other tests."""
    made = Stack(f"test-{os.getpid()}-outage", settings=StackSettings(durable=False))
    try:
        yield made
    finally:
        made.reset()


def test_the_broker_is_killed_under_load(stack: Stack, tmp_path: Path) -> None:
    kafka = KafkaSettings(bootstrap=stack.up(services={"kafka"}).kafka, topic_prefix=f"line-{uuid.uuid4().hex[:8]}.")
    line = Line(kafka=kafka, directory=tmp_path)
    line.create_topics()
    try:
        line.start()
        line.wait_until_loaded()
        writer = threading.Thread(target=line.work, args=(6_000,), kwargs={"rate": 400})
        writer.start()
        time.sleep(3)
        endpoints = stack.endpoints()
        assert endpoints is not None
        os.kill(endpoints.pids["kafka"], signal.SIGKILL)
        time.sleep(4)
        stack.up(services={"kafka"})
        writer.join()
        _restart_until_done(line)
        line.verify()
        assert line.stop() == 0
    finally:
        line.close()


def _restart_until_done(line: Line) -> None:
    """What the supervisor does: start a worker again that ended with a code worth it."""
    deadline = time.monotonic() + 90
    done = threading.Event()

    def supervise() -> None:
        while not done.wait(0.3):
            code = line.workers["1"].poll()
            if code is not None:
                assert code in (69, 70, 72), line.log()
                line.start()

    supervisor = threading.Thread(target=supervise)
    supervisor.start()
    try:
        line.wait_until_done(seconds=deadline - time.monotonic())
    finally:
        done.set()
        supervisor.join()
