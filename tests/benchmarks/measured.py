"""What benchmarks share: a line on servers of its own, CPU time by process, and one JSON line as the result."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil

from infra.stack.settings import StackSettings
from infra.stack.stack import Stack
from tests.e2e.line import WholeLine


@contextmanager
def line_on_its_own(name: str, simulator: Sequence[str]) -> Iterator[tuple[WholeLine, Stack]]:
    """A line with a simulated fleet on a durable Kafka and PostgreSQL that nobody else uses."""
    stack = Stack(f"bench-{name}-{os.getpid()}", settings=StackSettings())
    say("starting servers")
    endpoints = stack.up(services={"kafka", "postgres"})
    try:
        with tempfile.TemporaryDirectory() as folder:
            say("starting the line")
            with WholeLine(endpoints, Path(folder), simulator=simulator) as line:
                yield line, stack
    finally:
        stack.reset()


class CpuSeconds:
    """CPU time of every process of a line and its servers since this was made."""

    def __init__(self, line: WholeLine, stack: Stack) -> None:
        self._line = line
        self._stack = stack
        self._before = self._read()

    def since(self) -> dict[str, float]:
        """By part and server."""
        now = self._read()
        return {name: round(now[name] - self._before.get(name, 0.0), 2) for name in now}

    def _read(self) -> dict[str, float]:
        assert self._line.running is not None
        times = {}
        for part in self._line.running.states():
            if part.pid is not None:
                spent = psutil.Process(part.pid).cpu_times()
                times[part.name] = spent.user + spent.system
        for server in self._stack.status():
            if server.cpu_seconds is not None:
                times[server.service.value] = server.cpu_seconds
        return times


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def result(name: str, figures: dict[str, Any]) -> None:
    """Print the result as one JSON line, last, with machine and date; keep it where BENCH_RESULTS names a folder."""
    whole = {
        "benchmark": name,
        **figures,
        "machine": f"{os.cpu_count()} cores, {psutil.virtual_memory().total >> 30} GiB, {platform.machine()}",
        "python": platform.python_version(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    if folder := os.environ.get("BENCH_RESULTS"):
        Path(folder, f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(whole)) + b"\n")
    sys.stderr.flush()
    print(msgspec.json.encode(whole).decode(), flush=True)
