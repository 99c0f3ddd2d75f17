"""A worker of a stage as a process of a benchmark, with what it costs and what it logs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil

from infra.runtime.settings import KafkaSettings

SESSION_SECONDS = 10.0

_CONFIG = """
[kafka]
bootstrap = "{bootstrap}"
topic_prefix = "{prefix}"
[topics]
partitions = {partitions}
[{stage}]
worker_name = "{name}"
session_timeout_seconds = {session}
{key} = "a key for benchmarks alone"
"""
_KEYS = {"hosts": "tick_key", "vms": "intent_key"}


class StageWorker:
    """A started worker; `kill` it in the end."""

    def __init__(self, stage: str, kafka: KafkaSettings, folder: Path, *, name: str, partitions: int) -> None:
        config = folder / f"{name}.toml"
        config.write_text(
            _CONFIG.format(
                bootstrap=kafka.bootstrap,
                prefix=kafka.topic_prefix,
                partitions=partitions,
                stage=stage,
                name=name,
                session=SESSION_SECONDS,
                key=_KEYS[stage],
            )
        )
        self._log = folder / f"{name}-{time.monotonic_ns()}.log"
        command = (sys.executable, "-m", "infra.cli.main", "stream", stage, "--config", str(config))
        self.started_at = time.time()
        with self._log.open("wb") as log:
            self.process = subprocess.Popen([*command, "--http-port", "0"], stdout=log, stderr=log)
        self._process = psutil.Process(self.process.pid)

    def memory(self) -> tuple[int, int]:
        """Resident bytes now, and the most there ever were."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return self._process.memory_info().rss, int(peak.split()[1]) * 1024

    def cpu_seconds(self) -> float:
        """CPU time so far."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def events(self, name: str) -> list[dict[str, Any]]:
        """What it logged under this name."""
        found = [msgspec.json.decode(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [event for event in found if event.get("event") == name]

    def require_alive(self) -> None:
        """AssertionError with its last lines when it has ended."""
        assert self.process.poll() is None, f"the worker ended:\n{self._log.read_text()[-2000:]}"

    def wait_loaded(self, seconds: float) -> None:
        """Until it has loaded its table."""
        deadline = time.monotonic() + seconds
        while not self.events("tables_loaded"):
            self.require_alive()
            assert time.monotonic() < deadline, f"no table after {seconds:.0f} s"
            time.sleep(0.1)

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.wait()
