"""Delivers records to Kafka and returns only when all of them are durable. Blocking; one thread at a time.

Records go out one by one with `produce`: `produce_batch` of confluent-kafka 2.16 ignores the partition of a record and
takes no headers. `flush` waits for everything in the client, so nobody else may use this producer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from confluent_kafka import KafkaError, KafkaException, Message

from infra.runtime.errors import FatalError
from infra.runtime.kafka import make_producer
from infra.runtime.settings import KafkaSettings
from schemas.codec import SCHEMA_HEADER
from streams.runtime.stage import Batch, Output, Row

RECORD_OVERHEAD_BYTES = 512
"""Room left below `max.message.bytes` for the batch and record framing, the keys of headers and compression."""
FLUSH_MARGIN_SECONDS = 5.0
"""librdkafka gives up on a record after its delivery timeout; later than that, the client itself is stuck."""
QUEUE_POLL_SECONDS = 0.05
FENCE_RECORDS = 500
"""Records handed to the client between two looks at the fence: what a process does that stood still in between."""
MARK_HEADER = "writer"
"""Header of rows written while others may still write late."""


Clock = Callable[[], float]
"""Monotonic seconds."""


class DeliveryFailed(FatalError):
    """A record may not be in the log. What depends on it must never be acknowledged."""


class PartitionRow(NamedTuple):
    """A row and the partition of the table's log it belongs to."""

    partition: int
    row: Row


class Sender(Protocol):
    """What the outbox needs of a producer."""

    def send(self, rows: Sequence[PartitionRow], outputs: Sequence[Output]) -> None:
        """Send all of it and return when all is durable; raises DeliveryFailed otherwise."""
        ...

    def purge(self) -> None:
        """Forget what was not sent yet: this process may not own its partitions any more. Any thread."""
        ...


class RecordTooLarge(FatalError):
    """The broker would refuse a record."""


class Limits:
    """How large a record of each topic may be."""

    def __init__(self, limits_bytes: Mapping[str, int], table_topic: str) -> None:
        """`limits_bytes`: `max.message.bytes` of every topic by bare name; rows go to `table_topic`."""
        self._limits_bytes = {topic: limit - RECORD_OVERHEAD_BYTES for topic, limit in limits_bytes.items()}
        self._table_topic = table_topic

    def fits(self, topic: str, size: int) -> bool:
        """Whether the broker would take a record of so many bytes, key and value together."""
        return size <= self._limits_bytes[topic]

    def check(self, batch: Batch) -> None:
        """Raise RecordTooLarge for the first record that the broker would refuse."""
        limits = self._limits_bytes
        for topic, _, key, value, _ in batch.outputs:
            if value is not None and len(value) + (len(key) if key else 0) > limits[topic]:
                raise self._too_large(topic, key, value)
        limit = limits[self._table_topic]
        for key, value, _ in batch.rows:
            if value is not None and len(value) + len(key) > limit:
                raise self._too_large(self._table_topic, key, value)

    def _too_large(self, topic: str, key: bytes | None, value: bytes) -> RecordTooLarge:
        size = len(value) + len(key or b"")
        return RecordTooLarge(
            f"a record of {size} bytes is above the topic's limit of {self._limits_bytes[topic]}",
            where=f"{topic} key {key!r:.120}",
            advice="raise max.message.bytes of the topic, or find out what makes this record so large",
        )


class KafkaSender:
    """An idempotent producer whose every delivery is checked."""

    def __init__(
        self,
        kafka: KafkaSettings,
        *,
        table_topic: str,
        topics: Iterable[str],
        delivery_timeout_seconds: float,
        check_fence: Callable[[], object] = lambda: None,
    ) -> None:
        """`topics`: bare names of all that may be written to, `table_topic` among them.

        `check_fence` raises when this process stood still too long to still own its partitions.
        """
        self._table_topic = table_topic
        self._names = {topic: kafka.topic_prefix + topic for topic in topics}
        self._check_fence = check_fence
        self.mark: bytes | None = None
        """While set, rows carry it in a header: who wrote them can be told from other writers."""
        self._flush_seconds = delivery_timeout_seconds + FLUSH_MARGIN_SECONDS
        self._failures: list[str] = []
        self._producer = make_producer(
            kafka,
            # Nothing waits for it: a flush sends at once. Until then a partition's records share one request.
            linger_ms=100,
            delivery_timeout_ms=int(delivery_timeout_seconds * 1000),
            delivery_report_only_error=True,
            on_delivery=self._undelivered,
            error_cb=self._client_error,
            queue_buffering_max_messages=500_000,
            batch_num_messages=10_000,
        )

    def send(self, rows: Sequence[PartitionRow], outputs: Sequence[Output]) -> None:
        """Send outputs, then rows, and wait for all of them: readers wait for outputs, nobody for rows."""
        for at, output in enumerate(outputs):
            if at % FENCE_RECORDS == 0:
                self._check_fence()
            self._produce(output.topic, output.partition, output.key, output.value, list(output.headers))
        mark = [] if self.mark is None else [(MARK_HEADER, self.mark)]
        for at, (partition, row) in enumerate(rows):
            if at % FENCE_RECORDS == 0:
                self._check_fence()
            headers = [(SCHEMA_HEADER, row.schema), *mark] if row.schema is not None else list(mark)
            self._produce(self._table_topic, partition, row.key, row.value, headers)
        self._check_fence()
        left = self._producer.flush(self._flush_seconds)
        if left or self._failures:
            reasons = "; ".join(sorted(set(self._failures))[:3]) or "no answer within the delivery timeout"
            raise DeliveryFailed(
                f"{left + len(self._failures)} of {len(rows) + len(outputs)} records were not delivered ({reasons})",
                where="outbox",
                advice="nothing that depends on them was acknowledged; the restart repeats the work",
            )

    def purge(self) -> None:
        """Drop what is queued or in flight."""
        self._producer.purge(in_queue=True, in_flight=True, blocking=False)

    def _produce(
        self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: list[tuple[str, Any]]
    ) -> None:
        name, produce = self._names[topic], self._producer.produce
        deadline: float | None = None
        while True:
            try:
                produce(name, value, key, partition, headers=headers)
                return
            except BufferError as error:
                deadline = deadline or time.monotonic() + self._flush_seconds
                if time.monotonic() > deadline:
                    raise DeliveryFailed("the producer's queue stays full", where="outbox") from error
                self._producer.poll(QUEUE_POLL_SECONDS)
            except KafkaException as error:
                raise DeliveryFailed(f"cannot produce: {error.args[0].str()}", where=f"{name}[{partition}]") from error

    def _undelivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failures.append(f"{message.topic()}[{message.partition()}]: {error.str()}")

    def _client_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._failures.append(f"the producer cannot go on: {error.str()}")
