"""Servers that are killed, stay away, and come back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from infra.stack.services import ServiceName
from infra.stack.settings import StackSettings
from infra.stack.stack import Stack


@contextmanager
def own_stack(name: str) -> Iterator[Stack]:
    """A stack that may be killed without disturbing anybody."""
    stack = Stack(f"{name}-{os.getpid()}", settings=StackSettings(durable=False))
    try:
        yield stack
    finally:
        stack.reset()


def away(stack: Stack, service: ServiceName, seconds: float) -> None:
    """SIGKILL to a server; it is started again after so long."""
    endpoints = stack.endpoints()
    assert endpoints is not None
    os.kill(endpoints.pids[service], signal.SIGKILL)
    time.sleep(seconds)
    stack.up(services={"kafka", "postgres"})
