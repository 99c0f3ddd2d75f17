"""Reads the table's log into fresh cores, in bulk: librdkafka at hundreds of thousands of rows per second.

Faust's own recovery makes an event of every row (8,000 rows/s) and stops the whole group meanwhile.
"""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from infra.runtime.errors import DeltavisorError, NeighbourUnreachable
from infra.runtime.kafka import make_consumer, unreachable
from infra.runtime.settings import KafkaSettings
from schemas.codec import SCHEMA_HEADER, decode
from streams.runtime.continuity import InputBounds
from streams.runtime.kept import REBUILD_KEY, RebuildRow, TableLog, require_kept
from streams.runtime.stage import BOOKKEEPING, GuardedLoader, PartitionCore, PartitionLoader, Stage
from streams.runtime.trials import TRIAL_KEY, Trial, trial_of

SELFTEST_KEY = b"#selftest"
"""Key of what the start-up check writes into the table's log; no loader ever sees it."""

REQUEST_SECONDS = 15.0
CONSUME_RECORDS = 1_000
"""At once. So few are still in the processor's cache when they are taken: a third less time than with 20,000."""
CONSUME_SECONDS = 0.1
QUEUE_KIB = 65_536
"""Fetched ahead, for a fifth of a second of loading; all of it would be memory on top of the rows."""
COORDINATOR_SECONDS = 0.1
"""Between two questions to a broker whose group coordinator is not there yet."""
_NO_COORDINATOR_YET = frozenset(
    {KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS}
)
SILENCE_SECONDS = 30.0
"""A log that gives nothing for so long, before its end, is not being read any more."""


class Abandoned(Exception):
    """Another rebalance began; what is being loaded is not wanted any more."""


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What loading gave: fresh cores, the bounds of every input partition asked for, and how many rows were read."""

    cores: Mapping[int, PartitionCore]
    bounds: Mapping[int, InputBounds]
    rows: int
    trials: Mapping[int, Trial] = {}
    """What the last process that began to apply inputs of a partition wrote down."""
    ends: Mapping[int, int] = {}
    """Offset behind the last row read, by partition loaded."""
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
        self._trials: dict[int, Trial] = {}
        self._ends: dict[int, int] = {}
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
        if rows:
            _give_back_memory()
        return Loaded(cores=cores, bounds=bounds, rows=rows, trials=self._trials, ends=self._ends, tables=tables)

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
            queued_max_messages_kbytes=QUEUE_KIB,
            fetch_queue_backoff_ms=10,
        )

    def _input_bounds(self, consumer: Consumer, partitions: Sequence[int]) -> dict[int, InputBounds]:
        if not partitions:
            return {}
        asked = [TopicPartition(self._input_topic, partition) for partition in partitions]
        committed = {answer.partition: answer.offset for answer in _committed(consumer, asked)}
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
            self._take(loaders, messages)
            rows += len(messages)
            # The position passes offsets that compaction took away, which no message would tell.
            for answer in consumer.position([TopicPartition(self._table_topic, partition) for partition in ends]):
                positions[answer.partition] = max(answer.offset, positions[answer.partition])
                if positions[answer.partition] >= ends[answer.partition]:
                    del ends[answer.partition]
            left = sum(ends[partition] - positions[partition] for partition in ends)
            progress(1.0 - left / total)
        return rows

    def _take(self, loaders: Mapping[int, PartitionLoader], messages: Iterable[Message]) -> None:
        """Hand each row to the loader of its partition. Runs for every row of a table: no call that is not needed."""
        for message in messages:
            if (error := message.error()) is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    continue
                raise KafkaException(error)
            key, partition = message.key(), message.partition()
            if key is None or partition is None:
                continue
            schema = None
            for name, value in message.headers() or ():
                if name == SCHEMA_HEADER:
                    schema = value
                    break
            if key.startswith(BOOKKEEPING) and self._note(partition, key, message.value(), schema):
                continue
            loaders[partition].add(key, message.value(), schema)

    def _note(self, partition: int, key: bytes, value: bytes | None, schema: bytes | None) -> bool:
        """Take a row that the runtime itself wrote; False for one of the stage's."""
        if key == REBUILD_KEY:
            if value is None:
                self._rebuilds.pop(partition, None)
            else:
                self._rebuilds[partition] = decode(RebuildRow, value, schema).at
        elif key == TRIAL_KEY:
            if value is not None:
                self._trials[partition] = trial_of(value, schema)
        else:
            return key == SELFTEST_KEY
        return True

    def _assign(
        self, consumer: Consumer, loaders: Mapping[int, PartitionLoader]
    ) -> tuple[dict[int, int], dict[int, int]]:
        """Assign the partitions that have rows; their positions and ends."""
        positions, ends = {}, {}
        for partition in loaders:
            start, end = self._watermarks(consumer, self._table_topic, partition)
            self._starts[partition], self._ends[partition] = start, end
            if end > start:
                positions[partition], ends[partition] = start, end
        if ends:
            consumer.assign([TopicPartition(self._table_topic, p, start) for p, start in positions.items()])
        return positions, ends

    def _failure(self, error: KafkaException) -> DeltavisorError:
        return unreachable(self._kafka, error)


def _committed(consumer: Consumer, asked: list[TopicPartition]) -> list[TopicPartition]:
    """The group's offsets; a coordinator that is moving, or being made, is waited for."""
    deadline = time.monotonic() + REQUEST_SECONDS
    while True:
        try:
            found: list[TopicPartition] = consumer.committed(asked, timeout=REQUEST_SECONDS)
        except KafkaException as error:
            if error.args[0].code() not in _NO_COORDINATOR_YET or time.monotonic() > deadline:
                raise
            time.sleep(COORDINATOR_SECONDS)
        else:
            return found


@contextmanager
def _no_collector() -> Iterator[None]:
    """Without the cyclic collector, which would walk all rows again and again while nothing but rows is made.

    What was made meanwhile is frozen before the collector is let loose again: it would begin by walking all of it.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.freeze()
            gc.enable()


def _give_back_memory() -> None:
    """Return to the system what fetching and loading took; glibc would keep it, as much again as the rows take."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
