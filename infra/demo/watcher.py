"""Follows `vm.changes` as any consumer would, and keeps what a screen shows."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque

import confluent_kafka

from infra.cli.describe import clock, describe
from infra.runtime.kafka import make_consumer
from infra.runtime.settings import KafkaSettings
from infra.runtime.topics import VM_CHANGES, TopicSet
from schemas.codec import SCHEMA_HEADER, RecordError, decode
from schemas.vm_change import VmChange

_RECENT = 12
_RATE_SECONDS = 5.0


class Watcher:
    """A consumer thread with a picture of the fleet. Read its attributes from any thread."""

    def __init__(self, kafka: KafkaSettings, topics: TopicSet) -> None:
        self._kafka = kafka
        self._topics = topics
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="watcher", daemon=True)
        self._seen: dict[str, tuple[str, str]] = {}
        self._arrivals: deque[float] = deque()
        self.recent: deque[str] = deque(maxlen=_RECENT)
        self.total = 0
        self.last_at = time.monotonic()

    def start(self) -> None:
        """Follow from the topic's start."""
        self._thread.start()

    def close(self) -> None:
        """Stop following."""
        self._stop.set()
        self._thread.join(timeout=5.0)

    def counts(self) -> Counter[tuple[str, str]]:
        """VMs by (status, availability)."""
        return Counter(list(self._seen.values()))

    def per_second(self) -> float:
        """Changes a second over the last seconds."""
        now = time.monotonic()
        return sum(1 for at in list(self._arrivals) if now - at <= _RATE_SECONDS) / _RATE_SECONDS

    def _follow(self) -> None:
        consumer = make_consumer(self._kafka, group_id=f"deltavisor-watch-{os.getpid()}", fetch_wait_max_ms=100)
        name = self._topics.name(VM_CHANGES)
        try:
            consumer.assign(
                [
                    confluent_kafka.TopicPartition(name, partition, confluent_kafka.OFFSET_BEGINNING)
                    for partition in range(self._topics.partitions)
                ]
            )
            while not self._stop.is_set():
                for message in consumer.consume(500, 0.2):
                    if message.error() is None:
                        self._take(message)
        finally:
            consumer.close()

    def _take(self, message: confluent_kafka.Message) -> None:
        value = message.value()
        if value is None:
            return
        try:
            change = decode(VmChange, value, dict(message.headers() or []).get(SCHEMA_HEADER))
        except RecordError as problem:
            self.recent.append(f"{message.partition()}@{message.offset()} not readable: {problem}")
            return
        self._seen[change.vm_id] = (change.status.value, change.availability.state.value)
        self.total += 1
        self.last_at = time.monotonic()
        self._arrivals.append(self.last_at)
        while self._arrivals and self.last_at - self._arrivals[0] > _RATE_SECONDS:
            self._arrivals.popleft()
        self.recent.append(f"{clock(change.observed_at)} {change.vm_id[:8]} {describe(change)}")
