"""Write requests into a topic, then follow another one until everything that was asked for came by."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import confluent_kafka

from infra.runtime.errors import NeighbourUnreachable
from infra.runtime.kafka import make_consumer, make_producer
from infra.runtime.settings import KafkaSettings
from infra.runtime.topics import TopicSet
from schemas.codec import SCHEMA_HEADER, Record, encode, header_of

DELIVERY_SECONDS = 15.0
READ_SECONDS = 0.2
_QUEUE_SECONDS = 0.1


class Awaited(Protocol):
    """Knows what was asked for and hears what comes."""

    def hear(self, key: bytes, value: bytes, schema: bytes | None) -> None:
        """Take one record."""
        ...

    @property
    def left(self) -> int:
        """How much did not come yet."""
        ...


class Follower:
    """Reads partitions of a topic from where they ended when this was made; use as a context."""

    def __init__(self, kafka: KafkaSettings, topics: TopicSet, topic: str, partitions: Iterable[int]) -> None:
        """Raises NeighbourUnreachable."""
        self._name = topics.name(topic)
        self._kafka = kafka
        self._consumer = make_consumer(kafka, group_id=f"deltavisor-follow-{os.getpid()}", fetch_wait_max_ms=100)
        try:
            places = []
            for number in sorted(set(partitions)):
                place = confluent_kafka.TopicPartition(self._name, number)
                watermarks = self._consumer.get_watermark_offsets(place, timeout=10)
                if watermarks is None:
                    raise NeighbourUnreachable("no answer about the end of the log", where=f"{self._name}[{number}]")
                places.append(confluent_kafka.TopicPartition(self._name, number, watermarks[1]))
            self._consumer.assign(places)
        except confluent_kafka.KafkaException as error:
            self._consumer.close()
            raise NeighbourUnreachable(str(error), where=f"topic {self._name}") from error

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def follow(self, awaited: Awaited, seconds: float, progress: Callable[[int], None]) -> None:
        """Read until nothing is left, or the time is over; `progress` is told what is left after every read."""
        deadline = time.monotonic() + seconds
        while awaited.left and time.monotonic() < deadline:
            for message in self._consumer.consume(1_000, READ_SECONDS):
                if message.error() is not None:
                    raise NeighbourUnreachable(str(message.error()), where=f"topic {self._name}")
                key, value = message.key(), message.value()
                if isinstance(key, bytes) and isinstance(value, bytes):
                    schema = dict(message.headers() or []).get(SCHEMA_HEADER)
                    awaited.hear(key, value, schema if isinstance(schema, bytes) else None)
            progress(awaited.left)


class Writer:
    """Writes records by key, and proves that they are in the log."""

    def __init__(self, kafka: KafkaSettings, topics: TopicSet, topic: str) -> None:
        self._name = topics.name(topic)
        self._producer = make_producer(kafka, linger_ms=5, delivery_timeout_ms=int(DELIVERY_SECONDS * 1000))
        self._failures: list[str] = []

    def write(self, key: bytes, record: Record) -> None:
        """Hand over a record; `flush` says whether it arrived."""
        headers = [(SCHEMA_HEADER, header_of(type(record)))]
        value = encode(record)
        while True:
            try:
                self._producer.produce(self._name, value, key, headers=headers, on_delivery=self._report)
                return
            except BufferError:
                self._producer.poll(_QUEUE_SECONDS)

    def flush(self) -> None:
        """Wait for everything; raises NeighbourUnreachable when something is not in the log."""
        left = self._producer.flush(DELIVERY_SECONDS + 1)
        if left or self._failures:
            told = self._failures[0] if self._failures else "no answer in time"
            raise NeighbourUnreachable(
                f"{left + len(self._failures)} records were not delivered: {told}", where=f"topic {self._name}"
            )

    def _report(self, error: confluent_kafka.KafkaError | None, message: confluent_kafka.Message) -> None:
        if error is not None:
            self._failures.append(error.str())
