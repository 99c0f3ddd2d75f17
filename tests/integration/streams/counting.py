"""A stage that counts, to test the runtime with a rule anybody can check; also the program of its worker.

An input is a MessagePack list of keys. Each occurrence of a key adds one to its counter and puts `Counted` out. The
counter is the worst case for a runtime: a lost, repeated or reordered input shows in it for ever.

Keys that begin with `poison` raise, with `deadly` kill the process, with `large` make an output that no topic takes.
When an input is isolated, they are put aside and the others count.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from infra.runtime.lifecycle import run_service
from infra.runtime.log import configure_logging
from infra.runtime.topics import DEAD_LETTERS, HOST_REPORTS, HOSTS_TABLE, VM_OBSERVATIONS
from schemas.codec import Record, SchemaVersion, decode, encode, header_of
from schemas.dead_letter import dead_letter_headers
from schemas.ids import partition_of
from schemas.tick import TICK_KEY, Tick, verify_tick
from streams.runtime.settings import HostsStreamSettings
from streams.runtime.stage import Batch, Counts, Demand, Fits, Input, Marks, Output, Row
from streams.runtime.worker import StreamService

PARTITION_KEY = b"#partition"
POISON, DEADLY, LARGE = b"poison", b"deadly", b"large"
PID = os.getpid()


class Work(Record, frozen=True, kw_only=True):
    """An input: keys to count."""

    SCHEMA: ClassVar[SchemaVersion] = SchemaVersion(record="Work", major=1, minor=0)

    keys: list[bytes]


class Counted(Record, frozen=True, kw_only=True):
    """An output: the counter after this input."""

    SCHEMA: ClassVar[SchemaVersion] = SchemaVersion(record="Counted", major=1, minor=0)

    count: int
    partition: int
    offset: int
    writer: int = 0
    """Process id."""
    padding: bytes = b""


class CountRow(Record, frozen=True, kw_only=True):
    """A row: the counter, and the input that wrote it last."""

    SCHEMA: ClassVar[SchemaVersion] = SchemaVersion(record="CountRow", major=1, minor=0)

    count: int
    applied: int


class PartitionRow(Record, frozen=True, kw_only=True):
    """The partition's own row."""

    SCHEMA: ClassVar[SchemaVersion] = SchemaVersion(record="CountPartition", major=1, minor=0)

    applied: int
    ticks: int


class CountingCore:
    """Counts per key."""

    def __init__(self, partition: int, partitions: int, topic_id: str, secret: bytes) -> None:
        self._partition = partition
        self._partitions = partitions
        self._topic_id = topic_id
        self._secret = secret
        self.applied = -1
        self.expected_tick = 1
        self.counts: dict[bytes, tuple[int, int]] = {}
        self._outputs: list[Output] = []
        self._changed: dict[bytes, None] = {}
        self._partition_of: dict[bytes, int] = {}
        self._gaps = 0

    def apply(self, record: Input) -> Demand:
        self.applied = record.offset
        if record.key == TICK_KEY:
            tick = decode(Tick, record.value, record.schema)
            if verify_tick(self._secret, self._topic_id, self._partition, tick) and tick.n == self.expected_tick:
                self.expected_tick += 1
            return Demand(records=1, urgent=False)
        keys = decode(Work, record.value, record.schema).keys
        for key in keys:
            self._take(key, record.offset)
        return Demand(records=2 * len(keys) + 1, urgent=True)

    def isolate(self, record: Input, condemned: Collection[bytes], fits: Fits, before: Marks) -> Demand:
        self.applied = record.offset
        keys = decode(Work, record.value, record.schema).keys
        for key in keys:
            if key in condemned or key.startswith((POISON, LARGE)):
                headers = dead_letter_headers(
                    topic=HOST_REPORTS, partition=self._partition, offset=record.offset, stage="counting",
                    reason="poison", error="", schema=record.schema,
                )  # fmt: skip
                self._outputs.append(Output(DEAD_LETTERS, self._partition, key, record.value, tuple(headers)))
                continue
            before([key])
            self._take(key, record.offset)
        return Demand(records=2 * len(keys) + 1, urgent=True)

    def reassert(self, key: bytes) -> None:
        if key in self.counts:
            self._changed[key] = None

    def _take(self, key: bytes, offset: int) -> None:
        count, applied = self.counts.get(key, (0, -1))
        if applied < offset:
            self._count(key, count + 1, offset)
        if key.startswith(POISON):
            raise ZeroDivisionError("no rule for this")
        if key.startswith(DEADLY):
            os.kill(os.getpid(), signal.SIGKILL)

    def _count(self, key: bytes, count: int, offset: int) -> None:
        self.counts[key] = (count, offset)
        self._changed[key] = None
        target = self._partition_of.get(key)
        if target is None:
            target = self._partition_of[key] = partition_of(key, self._partitions)
        padding = bytes(5_000_000) if key.startswith(LARGE) else b""
        value = encode(Counted(count=count, partition=self._partition, offset=offset, writer=PID, padding=padding))
        self._outputs.append(Output(VM_OBSERVATIONS, target, key, value, (("schema", header_of(Counted)),)))

    def gap(self, first_missing: int, next_offset: int) -> None:
        self._gaps += 1

    def seal(self) -> Batch:
        rows = []
        for key in self._changed:
            count, applied = self.counts[key]
            rows.append(Row(key, encode(CountRow(count=count, applied=applied)), header_of(CountRow)))
        own = PartitionRow(applied=self.applied, ticks=self.expected_tick - 1)
        rows.append(Row(PARTITION_KEY, encode(own), header_of(PartitionRow)))
        batch = Batch(self._outputs, rows)
        self._outputs, self._changed = [], {}
        return batch

    def drain_counts(self) -> list[Counts]:
        return [Counts("sequence_gaps", (), 0)]


class CountingLoader:
    """Loads a `CountingCore`."""

    def __init__(self, core: CountingCore) -> None:
        self._core = core

    def add(self, key: bytes, value: bytes | None, schema: bytes | None) -> None:
        if value is None:
            self._core.counts.pop(key, None)
        elif key == PARTITION_KEY:
            own = decode(PartitionRow, value, schema)
            self._core.applied = max(own.applied, self._core.applied)
            self._core.expected_tick = max(own.ticks + 1, self._core.expected_tick)
        else:
            row = decode(CountRow, value, schema)
            if row.applied > self._core.counts.get(key, (0, -1))[1]:
                self._core.counts[key] = (row.count, row.applied)

    def finish(self) -> CountingCore:
        return self._core


class CountingStage:
    """Reads host.reports, keeps hosts.table, writes vm.observations."""

    name = "counting"
    inputs: tuple[str, ...] = (HOST_REPORTS,)
    table_topic = HOSTS_TABLE
    outputs: tuple[str, ...] = (VM_OBSERVATIONS, DEAD_LETTERS)
    rules_version = 1

    def __init__(self, settings: HostsStreamSettings, partitions: int, topic_ids: Mapping[str, str]) -> None:
        self._partitions = partitions
        self._topic_id = topic_ids.get(HOST_REPORTS, "")
        self._secret = settings.tick_secret

    def loader(self, partition: int) -> CountingLoader:
        return CountingLoader(CountingCore(partition, self._partitions, self._topic_id, self._secret))

    def metric_names(self) -> Iterable[str]:
        return ("sequence_gaps",)


def main(config: Path) -> int:
    """Run a worker with these settings; the exit code of the process."""
    settings = HostsStreamSettings.load(config, None)
    configure_logging(settings.log, component=settings.component, process=settings.instance)
    return int(run_service(StreamService(settings, CountingStage), settings=settings.lifecycle))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
