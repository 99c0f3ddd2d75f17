"""Reads the table's log into fresh cores, in bulk: librdkafka at hundreds of thousands of rows per second.

Faust's own recovery makes an event of every row (8,000 rows/s) and stops the whole group meanwhile.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from infra.runtime.errors import DeltavisorError, NeighbourUnreachable
from infra.runtime.kafka import make_consumer, unreachable
from infra.runtime.settings import KafkaSettings
from schemas.codec import SCHEMA_HEADER, decode
from streams.runtime.continuity import InputBounds
from streams.runtime.kept import REBUILD_KEY, RebuildRow, TableLog, require_kept
from streams.runtime.stage import GuardedLoader, PartitionCore, PartitionLoader, Stage

SELFTEST_KEY = b"#selftest"
"""Key of what the start-up check writes into the table's log; no loader ever sees it."""

REQUEST_SECONDS = 15.0
CONSUME_RECORDS = 20_000
CONSUME_SECONDS = 0.1
SILENCE_SECONDS = 30.0
"""A log that gives nothing for so long, before its end, is not being read any more."""


class Abandoned(Exception):
    """Another rebalance began; what is being loaded is not wanted any more."""


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What loading gave: fresh cores, the bounds of every input partition asked for, and how many rows were read."""

    cores: Mapping[int, PartitionCore]
    bounds: Mapping[int, InputBounds]
    rows: int
    tables: Mapping[int, TableLog] = {}
    """What the table's log showed, of partitions whose loader can tell an empty table from a lost one."""


class Reader(Protocol):
    """What loads a worker's partitions."""

    def load(
        self,
        partitions: Sequence[int],
        kept: Sequence[int],
        *,
        abandoned: threading.Event,
        progress: Callable[[float], object] = ...,
    ) -> Loaded:
        """See `TableReader.load`."""
        ...


class TableReader:
    """Blocking; runs in a thread of its own, one load at a time."""

    def __init__(self, kafka: KafkaSettings, stage: Stage, *, group: str, mending: bool = False) -> None:
        """`mending`: also load tables that no worker may use, for the commands that make them usable again."""
        self._mending = mending
        self._kafka = kafka
        self._stage = stage
        self._group = group
        self._table_topic = kafka.topic_prefix + stage.table_topic
        self._input_topic = kafka.topic_prefix + stage.inputs[0]

    def load(
        self,
        partitions: Sequence[int],
        kept: Sequence[int],
        *,
        abandoned: threading.Event,
        progress: Callable[[float], object] = lambda share: None,
    ) -> Loaded:
        """Cores of `partitions`, and bounds of the input for these and the `kept` ones.

        Reads each log to the end it had when the load began: the former owner has drained its outbox by then or is
        dead. Raises Abandoned, NeighbourUnreachable, TopicMismatch for a table that is lost or of another input, and
        what a loader raises (NewerMajorError).
        """
        consumer = self._consumer()
        self._starts: dict[int, int] = {}
        self._rebuilds: dict[int, int] = {}
        try:
            bounds = self._input_bounds(consumer, [*partitions, *kept])
            loaders = {partition: self._stage.loader(partition) for partition in partitions}
            with _no_collector():
                rows = self._read(consumer, loaders, abandoned, progress)
                tables = self._tables(loaders, bounds)
                cores = {partition: loader.finish() for partition, loader in loaders.items()}
        except KafkaException as error:
            raise self._failure(error) from error
        finally:
            consumer.close()
        return Loaded(cores=cores, bounds=bounds, rows=rows, tables=tables)

    def _tables(self, loaders: Mapping[int, PartitionLoader], bounds: Mapping[int, InputBounds]) -> dict[int, TableLog]:
        tables = {}
        for partition, loader in loaders.items():
            if isinstance(loader, GuardedLoader):
                table = tables[partition] = TableLog(
                    start=self._starts[partition],
                    kept=loader.kept,
                    rebuilding_since=self._rebuilds.get(partition),
                )
                if not self._mending:
                    require_kept(
                        table,
                        bounds[partition],
                        table_where=f"{self._table_topic}[{partition}]",
                        input_where=f"{self._input_topic}[{partition}]",
                    )
        return tables

    def log_start(self, partition: int) -> int:
        """Offset of the first record that the input partition still has."""
        consumer = self._consumer()
        try:
            start, _ = self._watermarks(consumer, self._input_topic, partition)
        except KafkaException as error:
            raise self._failure(error) from error
        finally:
            consumer.close()
        return start

    def _consumer(self) -> Consumer:
        # Of the stage's group, to ask for its committed offsets; it only assigns, so it never becomes a member.
        return make_consumer(
            self._kafka,
            group_id=self._group,
            fetch_wait_max_ms=20,
            queued_min_messages=500_000,
            queued_max_messages_kbytes=262_144,
            fetch_queue_backoff_ms=10,
        )

    def _input_bounds(self, consumer: Consumer, partitions: Sequence[int]) -> dict[int, InputBounds]:
        if not partitions:
            return {}
        asked = [TopicPartition(self._input_topic, partition) for partition in partitions]
        committed = {answer.partition: answer.offset for answer in consumer.committed(asked, timeout=REQUEST_SECONDS)}
        bounds = {}
        for partition in partitions:
            start, end = self._watermarks(consumer, self._input_topic, partition)
            offset = committed[partition]
            bounds[partition] = InputBounds(start=start, end=end, committed=offset if offset >= 0 else None)
        return bounds

    def _watermarks(self, consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
        answer = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=REQUEST_SECONDS, cached=False)
        if answer is None:
            raise NeighbourUnreachable(
                f"no answer about {topic}[{partition}]", where=f"Kafka at {self._kafka.bootstrap}"
            )
        low, high = answer
        return int(low), int(high)

    def _read(
        self,
        consumer: Consumer,
        loaders: Mapping[int, PartitionLoader],
        abandoned: threading.Event,
        progress: Callable[[float], object],
    ) -> int:
        positions, ends = self._assign(consumer, loaders)
        total = sum(ends[partition] - positions[partition] for partition in ends)
        rows, silent_seconds = 0, 0.0
        while ends:
            if abandoned.is_set():
                raise Abandoned
            messages = consumer.consume(CONSUME_RECORDS, CONSUME_SECONDS)
            silent_seconds = 0.0 if messages else silent_seconds + CONSUME_SECONDS
            if silent_seconds > SILENCE_SECONDS:
                raise NeighbourUnreachable(
                    f"the log gave nothing for {SILENCE_SECONDS:.0f} s while loading",
                    where=f"{self._table_topic}{sorted(ends)}",
                    advice="look at the broker's log",
                )
            for message in messages:
                if message.key() == REBUILD_KEY:
                    self._note_rebuild(message)
                else:
                    _add(loaders, message)
            rows += len(messages)
            # The position passes offsets that compaction took away, which no message would tell.
            for answer in consumer.position([TopicPartition(self._table_topic, partition) for partition in ends]):
                positions[answer.partition] = max(answer.offset, positions[answer.partition])
                if positions[answer.partition] >= ends[answer.partition]:
                    del ends[answer.partition]
            left = sum(ends[partition] - positions[partition] for partition in ends)
            progress(1.0 - left / total)
        return rows

    def _note_rebuild(self, message: Message) -> None:
        value = message.value()
        if value is None:
            self._rebuilds.pop(message.partition(), None)
        else:
            self._rebuilds[message.partition()] = decode(RebuildRow, value, _schema(message.headers())).at

    def _assign(
        self, consumer: Consumer, loaders: Mapping[int, PartitionLoader]
    ) -> tuple[dict[int, int], dict[int, int]]:
        """Assign the partitions that have rows; their positions and ends."""
        positions, ends = {}, {}
        for partition in loaders:
            start, end = self._watermarks(consumer, self._table_topic, partition)
            self._starts[partition] = start
            if end > start:
                positions[partition], ends[partition] = start, end
        if ends:
            consumer.assign([TopicPartition(self._table_topic, p, start) for p, start in positions.items()])
        return positions, ends

    def _failure(self, error: KafkaException) -> DeltavisorError:
        return unreachable(self._kafka, error)


@contextmanager
def _no_collector() -> Iterator[None]:
    """Without the cyclic collector, which would walk all rows again and again while nothing but rows is made."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _add(loaders: Mapping[int, PartitionLoader], message: Message) -> None:
    if (error := message.error()) is not None:
        if error.code() == KafkaError._PARTITION_EOF:
            return
        raise KafkaException(error)
    key = message.key()
    if key is None or key == SELFTEST_KEY:
        return
    partition = message.partition()
    loaders[partition].add(key, message.value(), _schema(message.headers()))


def _schema(headers: list[tuple[str, Any]] | None) -> bytes | None:
    for name, value in headers or ():
        if name == SCHEMA_HEADER:
            found: bytes | None = value
            return found
    return None
