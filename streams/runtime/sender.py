"""Delivers records to Kafka and returns only when all of them are durable. Blocking; one thread at a time.

Records go out one by one with `produce`: `produce_batch` of confluent-kafka 2.16 ignores the partition of a record and
takes no headers. `flush` waits for everything in the client, so nobody else may use this producer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from confluent_kafka import KafkaError, KafkaException, Message

from infra.runtime.errors import FatalError
from infra.runtime.kafka import make_producer
from infra.runtime.settings import KafkaSettings
from schemas.codec import SCHEMA_HEADER
from streams.runtime.stage import Output, Row

RECORD_OVERHEAD_BYTES = 512
"""Room left below `max.message.bytes` for the batch and record framing, the keys of headers and compression."""
FLUSH_MARGIN_SECONDS = 5.0
"""librdkafka gives up on a record after its delivery timeout; later than that, the client itself is stuck."""
QUEUE_POLL_SECONDS = 0.05


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
        """Send in this order and return when all are durable; raises DeliveryFailed otherwise."""
        ...

    def purge(self) -> None:
        """Forget what was not sent yet: this process may not own its partitions any more. Any thread."""
        ...


def check_size(topic: str, partition: int, key: bytes | None, value: bytes | None, limit_bytes: int) -> None:
    """FatalError naming key and size when the broker would refuse this record."""
    size = (len(key) if key else 0) + (len(value) if value else 0)
    if size > limit_bytes:
        raise FatalError(
            f"a record of {size} bytes is above the topic's limit of {limit_bytes}",
            where=f"{topic}[{partition}] key {key!r}",
            advice="raise max.message.bytes of the topic, or find out what makes this record so large",
        )


class KafkaSender:
    """An idempotent producer whose every delivery is checked."""

    def __init__(
        self,
        kafka: KafkaSettings,
        *,
        table_topic: str,
        limits_bytes: Mapping[str, int],
        delivery_timeout_seconds: float,
    ) -> None:
        """`limits_bytes` has `max.message.bytes` of every topic by bare name, `table_topic` among them."""
        self._table_topic = table_topic
        self._names = {topic: kafka.topic_prefix + topic for topic in limits_bytes}
        self._limits_bytes = {topic: limit - RECORD_OVERHEAD_BYTES for topic, limit in limits_bytes.items()}
        self._flush_seconds = delivery_timeout_seconds + FLUSH_MARGIN_SECONDS
        self._failures: list[str] = []
        self._producer = make_producer(
            kafka,
            linger_ms=0,
            delivery_timeout_ms=int(delivery_timeout_seconds * 1000),
            delivery_report_only_error=True,
            on_delivery=self._undelivered,
            error_cb=self._client_error,
            queue_buffering_max_messages=500_000,
            batch_num_messages=10_000,
        )

    def send(self, rows: Sequence[PartitionRow], outputs: Sequence[Output]) -> None:
        """Send rows, then outputs, and wait for all of them."""
        for partition, row in rows:
            headers = [(SCHEMA_HEADER, row.schema)] if row.schema is not None else []
            self._produce(self._table_topic, partition, row.key, row.value, headers)
        for output in outputs:
            self._produce(output.topic, output.partition, output.key, output.value, list(output.headers))
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
        check_size(self._names[topic], partition, key, value, self._limits_bytes[topic])
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
