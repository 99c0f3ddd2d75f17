"""What the sink counts. Children are looked up once; a batch costs a handful of increments."""

from __future__ import annotations

import time
from collections.abc import Sequence

import confluent_kafka

from infra.runtime import metrics
from infra.runtime.metrics import Metrics
from sinks.postgres.committer import Done
from sinks.postgres.gather import oldest_observed_at


class Measures:
    """The sink's metrics."""

    def __init__(self, registry: Metrics) -> None:
        self._registry = registry
        self._batch = registry.histogram(metrics.BATCH)
        self._write_seconds = registry.histogram(metrics.WRITE_SECONDS)
        self._age = registry.histogram(metrics.OBSERVED_AGE)
        self._vm_changes = registry.counter(metrics.ROWS_WRITTEN, table="vm_change")
        self._committed = registry.counter(metrics.TRANSACTIONS, outcome="committed")
        self._retried = registry.counter(metrics.TRANSACTIONS, outcome="retried")
        self._repeats = registry.counter(metrics.DROPPED, reason="repeat", intentional="true")
        self._misses = registry.counter(metrics.GUARD_MISSES)
        self._fenced = registry.counter(metrics.FENCED)
        self._stale = registry.counter(metrics.DROPPED, reason="older_incarnation", intentional="false")
        self._repaired = registry.counter(metrics.REPAIRED_ROWS)

    def done(self, done: Done) -> None:
        """A batch was committed."""
        self._batch.observe(done.batch.rows)
        self._write_seconds.observe(done.seconds)
        self._committed.inc()
        self._retried.inc(done.retries)
        self._vm_changes.inc(done.written.changes)
        self._repeats.inc(done.written.repeats)
        self._stale.inc(done.written.stale)
        self._repaired.inc(done.written.repaired)
        if done.written.slow:
            self._misses.inc()
        if (observed_at := oldest_observed_at(done.batch)) is not None:
            self._age.observe(max(0.0, time.time() - observed_at.timestamp()))
        for span in done.batch.spans:
            received = self._registry.counter(metrics.RECEIVED, topic=span.topic)
            received.inc(span.next_offset - span.expected)

    def repaired(self, rows: int) -> None:
        """So many rows took their whole state when a partition was taken over."""
        self._repaired.inc(rows)

    def lag(self, consumer: confluent_kafka.Consumer, positions: Sequence[confluent_kafka.TopicPartition]) -> None:
        """How far these positions are behind the ends that the consumer last heard of; asks nobody."""
        for position in positions:
            _, high = consumer.get_watermark_offsets(position, cached=True)
            if high >= 0:
                gauge = self._registry.gauge(metrics.LAG, topic=position.topic, partition=str(position.partition))
                gauge.set(max(0, high - position.offset))

    def kafka_error(self, name: str) -> None:
        """The Kafka client reported an error it goes on from."""
        self._registry.counter(metrics.ERRORS, stage="kafka", error_type=name).inc()

    def fenced(self) -> None:
        """A batch was refused, because another process owns a partition of it."""
        self._fenced.inc()
