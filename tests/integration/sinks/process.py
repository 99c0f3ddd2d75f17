"""The sink as the process that users run, and changes put into its topics."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psycopg

from infra.runtime.kafka import make_producer
from infra.runtime.topics import VM_CHANGES
from schemas.codec import encode, header_of
from schemas.ids import partition_of
from schemas.vm_change import VmChange
from sinks.postgres.settings import PostgresSettings
from tests.integration.sinks.conftest import PARTITIONS, Admin

REPOSITORY = Path(__file__).resolve().parents[3]
WAIT_SECONDS = 30.0


class SinkProcess:
    """One worker; its log is kept in a file."""

    def __init__(self, folder: Path, settings: PostgresSettings, password_file: Path, name: str = "sink") -> None:
        self.log = folder / f"{name}.log"
        config = folder / f"{name}.toml"
        config.write_text(_toml(settings, password_file))
        self._command = [sys.executable, "-m", "infra.cli.main", "sink", "postgres", "--config", str(config)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> SinkProcess:
        """Start it, also after it has ended; the log goes on."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([*self._command, *arguments], cwd=REPOSITORY, stdout=log, stderr=log)
        return self

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def wait(self, seconds: float = WAIT_SECONDS) -> int:
        """Its exit code, once it has ended by itself."""
        return self.process.wait(seconds)

    def stop(self) -> int:
        """Ask it to stop; its exit code."""
        self.send(signal.SIGTERM)
        return self.wait()

    def has_logged(self, event: str) -> bool:
        """True when its log has this text."""
        return event in self.log.read_text()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running, or last run, process."""
        assert self._process is not None
        return self._process

    def close(self) -> None:
        """End it if it still runs."""
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGCONT)
            self.kill()


def _toml(settings: PostgresSettings, password_file: Path) -> str:
    return f"""
[kafka]
bootstrap = "{settings.kafka.bootstrap}"
topic_prefix = "{settings.kafka.topic_prefix}"
[topics]
partitions = {settings.topics.partitions}
[postgres]
dsn = "{settings.dsn}"
password_file = "{password_file}"
group = "{settings.group}"
session_timeout_seconds = {settings.session_timeout_seconds}
[postgres.lifecycle]
give_up_after_seconds = 6.0
[postgres.timeouts]
idle_in_transaction_seconds = 2
"""


class Feeder:
    """Publishes changes as the vms stage does: keyed by VM, to the partition of that key."""

    def __init__(self, settings: PostgresSettings) -> None:
        self._topic = settings.kafka.topic_prefix + VM_CHANGES
        self._producer = make_producer(settings.kafka)

    def publish(self, changes: Sequence[VmChange]) -> None:
        """Publish in order and wait for delivery."""
        headers: Mapping[str, bytes] = {"schema": header_of(VmChange)}
        for change in changes:
            key = change.vm_id.encode()
            self._producer.produce(
                self._topic,
                key=key,
                value=encode(change),
                headers=dict(headers),
                partition=partition_of(key, PARTITIONS),
            )
        assert self._producer.flush(WAIT_SECONDS) == 0


def rows_in(admin: Admin) -> int:
    """Changes in the history; -1 while the server does not answer."""
    try:
        row = admin.execute("SELECT count(*) FROM vm_change").fetchone()
    except psycopg.OperationalError:
        return -1
    return -1 if row is None else int(row[0])


def wait_until(condition: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    """Return when the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)
