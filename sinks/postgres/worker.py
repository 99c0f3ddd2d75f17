"""The sink as a process: consume, gather, pack, hand to the writing thread. It starts from the table's offsets.

Order of commits: rows, history and position in one PostgreSQL transaction, then the group's offsets in Kafka, which
only tell others how far behind we are. Killed anywhere between, the next process goes on at the table's position;
nothing is written twice and nothing is left out.
"""

from __future__ import annotations

import gc
import random
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from queue import Empty
from typing import Any

import confluent_kafka

from infra.runtime.backoff import Backoff, Retry
from infra.runtime.errors import ConfigError, FatalError, OffsetHole, SelfFenced, TopicMismatch, TransientError
from infra.runtime.http import WELL, Health, HealthServer
from infra.runtime.kafka import make_consumer, unreachable, wait_for_kafka
from infra.runtime.lifecycle import Stop
from infra.runtime.log import get_logger
from infra.runtime.metrics import Metrics
from infra.runtime.topics import HOST_CHANGES, VM_CHANGES, TopicAdmin
from infra.runtime.watchdog import Heartbeat, Watchdog
from schemas.codec import schema_in
from schemas.host_change import HostChange
from schemas.vm_change import VmChange
from sinks.postgres.committer import Committer, Done
from sinks.postgres.connection import where
from sinks.postgres.gather import Arrived, Gathering, TopicPart
from sinks.postgres.images import StateImages
from sinks.postgres.measures import Measures
from sinks.postgres.plan import Span
from sinks.postgres.schema import check_schema
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.writer import Writer

TOPICS = (VM_CHANGES, HOST_CHANGES)

SWITCH_INTERVAL_SECONDS = 0.0001
"""With Python's 5 ms each of the dozen round trips of a batch may wait that long for the packing thread."""
GC_THRESHOLD = 200_000
"""A batch allocates tens of thousands of records that all die together; collecting in between finds nothing."""

_IDLE_POLL_SECONDS = 0.5
_LEAST_POLL_SECONDS = 0.002
_FULL_POLL_SECONDS = 0.02
"""While the writing thread has no room: how often to look again."""
_PAUSE_AFTER_SECONDS = 1.0
_DRAIN_SECONDS = 5.0
_LOOP_LIMIT_SECONDS = 60.0
_REQUEST_SECONDS = 5.0
_COMMIT_EVERY_SECONDS = 1.0

_log = get_logger(__name__)


class PostgresSink:
    """One worker of the sink; several share the partitions through their consumer group."""

    def __init__(self, settings: PostgresSettings, writer: Writer | None = None) -> None:
        self._settings = settings
        self._place = where(settings.database)
        images = StateImages(settings.kafka, group=settings.group)
        self._writer = writer or Writer(settings.database, images=images)
        prefix = settings.kafka.topic_prefix
        self._gathering = Gathering(settings.batch, {prefix + VM_CHANGES: VmChange, prefix + HOST_CHANGES: HostChange})
        self._committer = Committer(self._writer, random=random.random)
        self._metrics = Metrics(PostgresSettings.component)
        self._measures = Measures(self._metrics)
        self._health = HealthServer(settings.http, self._metrics, ready=self._ready)
        self._watchdog = Watchdog()
        self._consumer: confluent_kafka.Consumer | None = None
        self._topic_ids: dict[str, str] = {}
        self._pending: list[TopicPart] = []
        self._take_retry = Retry(Backoff(first_seconds=0.2, cap_seconds=5.0))
        self._blocked_since: float | None = None
        self._paused = False
        self._to_commit: dict[TopicPart, int] = {}
        self._committed_at = 0.0
        self._is_set_up = False
        self._heartbeat: Heartbeat | None = None

    def check(self) -> None:
        """Reach Kafka and PostgreSQL, compare topics and schema; changes nothing.

        Raises NeighbourUnreachable, TopicMismatch, DatabaseRefused, ConfigError.
        """
        settings = self._settings
        wait_for_kafka(settings.kafka)
        found = TopicAdmin(settings.kafka, settings.topics).require(TOPICS)
        self._topic_ids = {topic.name: topic.topic_id for topic in found.values()}
        check_schema(self._writer.open(), self._place)

    def setup(self) -> None:
        """Check, and make the partitions of the next days; safe to repeat. Raises as `check` does."""
        self.check()
        self._writer.ensure_days([datetime.now(UTC).date()])
        self._is_set_up = True

    def run(self, stop: Stop) -> None:
        """Read and write until `stop`; then finish what the writing thread holds. Raises what must end the process."""
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        self._health.start()
        self._committer.start()
        consumer = self._subscribe()
        heartbeat = self._heartbeat = self._watchdog.heartbeat("sink loop", limit_seconds=_LOOP_LIMIT_SECONDS)
        self._watchdog.start()
        try:
            while not stop.is_set():
                self._turn(consumer, heartbeat)
            self._committer.drain(_DRAIN_SECONDS)
            self._note_done(consumer, asynchronous=False)
        finally:
            self._watchdog.release(heartbeat)
        self._raise_failure()

    def close(self) -> None:
        """Stop threads, leave the group, give the connection back; safe to repeat."""
        self._watchdog.close()
        self._committer.close(_DRAIN_SECONDS)
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
        self._writer.close()
        self._health.close()

    def _turn(self, consumer: confluent_kafka.Consumer, heartbeat: Heartbeat) -> None:
        heartbeat.beat()
        self._raise_failure()
        self._note_done(consumer)
        if self._pending:
            self._take_over(consumer)
        self._read(consumer)
        self._hand_on(consumer)

    def _subscribe(self) -> confluent_kafka.Consumer:
        session_ms = int(self._settings.session_timeout_seconds * 1000)
        name = self._settings.worker_name
        identity = {} if name is None else {"group_instance_id": f"{PostgresSettings.component}-{name}"}
        self._consumer = make_consumer(
            self._settings.kafka,
            group_id=self._settings.group,
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=session_ms // 5,
            fetch_wait_max_ms=500,
            # After its local queue was full librdkafka would wait a second before it fetches on.
            fetch_queue_backoff_ms=10,
            queued_max_messages_kbytes=32_768,
            partition_assignment_strategy="range",
            **identity,
        )
        self._consumer.subscribe(
            list(self._topic_ids), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )
        return self._consumer

    def _assigned(
        self, consumer: confluent_kafka.Consumer, partitions: Sequence[confluent_kafka.TopicPartition]
    ) -> None:
        # Nothing is fetched before the table has said where to begin, which may have to wait for the database.
        consumer.assign([])
        self._pending = [(partition.topic, partition.partition) for partition in partitions]
        self._take_retry.succeeded()
        _log.info("partitions_assigned", partitions=len(partitions))

    def _revoked(
        self, consumer: confluent_kafka.Consumer, partitions: Sequence[confluent_kafka.TopicPartition]
    ) -> None:
        """What was handed on is finished first, so that the next owner need not wait for our transaction."""
        if not self._committer.drain(_DRAIN_SECONDS):
            self._committer.abandon()
        self._note_done(consumer, asynchronous=False)
        self._let_go()
        _log.info("partitions_revoked", partitions=len(partitions))

    def _lost(self, consumer: confluent_kafka.Consumer, partitions: Sequence[confluent_kafka.TopicPartition]) -> None:
        self._committer.abandon()
        self._let_go()
        _log.warning("partitions_lost", partitions=len(partitions))

    def _let_go(self) -> None:
        self._gathering.forget()
        self._pending = []
        self._to_commit.clear()
        self._paused = False
        self._blocked_since = None

    def _take_over(self, consumer: confluent_kafka.Consumer) -> None:
        """Take the epoch of every assigned partition and start reading at the table's offset."""
        if self._committer.busy or not self._take_retry.due(time.monotonic()):
            return
        try:
            starts = [self._take(consumer, topic, partition) for topic, partition in self._pending]
        except TransientError as error:
            delay = self._take_retry.failed(time.monotonic(), random.random)
            _log.warning("take_over_retry", error=str(error), next_try_seconds=round(delay, 2))
            return
        self._take_retry.succeeded()
        self._pending = []
        consumer.assign(starts)
        _log.info("partitions_taken", partitions=len(starts))

    def _take(self, consumer: confluent_kafka.Consumer, topic: str, partition: int) -> confluent_kafka.TopicPartition:
        at = confluent_kafka.TopicPartition(topic, partition)
        try:
            low, high = consumer.get_watermark_offsets(at, timeout=_REQUEST_SECONDS)
        except confluent_kafka.KafkaException as error:
            raise unreachable(self._settings.kafka, error) from error
        epoch, next_offset, recorded = self._writer.take(topic, partition, self._topic_ids[topic], low)
        if recorded != self._topic_ids[topic]:
            raise TopicMismatch(
                f"the database holds changes of a topic {recorded}, the broker's has the id {self._topic_ids[topic]}",
                where=f"{topic}[{partition}] and {self._place}, table sink_position",
                advice="it was deleted and made again, or this is another cluster: stop all workers and run "
                "`deltavisor topics adopt`, or use the database that belongs to it",
            )
        if next_offset > high:
            raise TopicMismatch(
                f"the database stands at offset {next_offset}, the topic ends at {high}",
                where=f"{topic}[{partition}]",
                advice="the topic has lost its end: stop all workers and run `deltavisor topics adopt`",
            )
        if next_offset < low:
            span = Span(topic=topic, partition=partition, epoch=epoch, expected=next_offset, next_offset=low)
            self._repair(span)
            next_offset = low
        self._gathering.own((topic, partition), epoch, next_offset)
        at.offset = next_offset
        return at

    def _repair(self, span: Span) -> None:
        """Changes are gone from the topic unread, or those before its start were: take whole states instead."""
        of_hosts = span.topic == self._settings.kafka.topic_prefix + HOST_CHANGES
        beat = self._heartbeat.beat if self._heartbeat is not None else lambda: None
        repaired = self._writer.repair(span, of_hosts=of_hosts, rows=self._settings.batch.rows, progress=beat)
        self._measures.repaired(repaired)
        _log.error(
            "changes_gone",
            topic=span.topic,
            partition=span.partition,
            first_missing=max(0, span.expected),
            next_offset=span.next_offset,
            repaired_rows=repaired,
        )

    def _read(self, consumer: confluent_kafka.Consumer) -> None:
        room = self._gathering.room
        if not room:
            return
        first = consumer.poll(self._poll_seconds())
        if first is None:
            return
        self._arrived(first)
        if room > 1 and not self._paused:
            for message in consumer.consume(room - 1, 0):
                self._arrived(message)

    def _poll_seconds(self) -> float:
        if not self._gathering.rows:
            return _IDLE_POLL_SECONDS
        if self._committer.full:
            return _FULL_POLL_SECONDS
        return max(_LEAST_POLL_SECONDS, self._gathering.wait_seconds(time.monotonic()))

    def _arrived(self, message: Any) -> None:
        if (error := message.error()) is not None:
            self._kafka_error(error, message)
            return
        header = schema_in(message.headers())
        self._gathering.add(Arrived(message.topic(), message.partition(), message.offset(), header, message.value()))

    def _kafka_error(self, error: confluent_kafka.KafkaError, message: Any) -> None:
        place = f"{message.topic()}[{message.partition()}]"
        if error.code() == confluent_kafka.KafkaError._AUTO_OFFSET_RESET:
            raise OffsetHole(
                "the offset to go on from is gone from the topic",
                where=place,
                advice="the sink was away longer than the topic keeps changes: the restart takes whole states instead",
            )
        if error.code() in (
            confluent_kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED,
            confluent_kafka.KafkaError.GROUP_AUTHORIZATION_FAILED,
        ):
            raise ConfigError(f"Kafka refuses access ({error.name()})", where=place, advice="mend the access rules")
        if error.fatal():
            raise FatalError(f"the Kafka client gave up ({error.name()})", where=place)
        self._measures.kafka_error(error.name())
        _log.warning("kafka_error", error=error.name(), partition=place)

    def _hand_on(self, consumer: confluent_kafka.Consumer) -> None:
        gathering = self._gathering
        now = time.monotonic()
        if not gathering.rows or gathering.wait_seconds(now) > 0:
            return
        if self._committer.full:
            self._hold_back(consumer, now)
            return
        self._go_on(consumer)
        batch = gathering.batch(now)
        self._committer.submit(batch, self._writer.prepare(batch))

    def _hold_back(self, consumer: confluent_kafka.Consumer, now: float) -> None:
        """Wait for the writing thread; soon stop fetching too, and keep polling, so as to stay in the group."""
        if self._gathering.room:
            return
        self._blocked_since = self._blocked_since or now
        if self._paused:
            if (message := consumer.poll(_FULL_POLL_SECONDS)) is not None:
                self._arrived(message)
        elif now - self._blocked_since > _PAUSE_AFTER_SECONDS:
            consumer.pause(consumer.assignment())
            self._paused = True
            _log.warning("reading_paused", reason=self._committer.waiting_for_database or "the database is slow")
        else:
            self._committer.wait_for_room(_FULL_POLL_SECONDS)

    def _go_on(self, consumer: confluent_kafka.Consumer) -> None:
        self._blocked_since = None
        if self._paused:
            consumer.resume(consumer.assignment())
            self._paused = False
            _log.info("reading_resumed")

    def _note_done(self, consumer: confluent_kafka.Consumer, *, asynchronous: bool = True) -> None:
        """Count what was committed, and tell the group, at most once a second."""
        while (done := self._next_done()) is not None:
            self._measures.done(done)
            for span in done.batch.spans:
                self._to_commit[span.topic, span.partition] = span.next_offset
        now = time.monotonic()
        if not self._to_commit or (asynchronous and now - self._committed_at < _COMMIT_EVERY_SECONDS):
            return
        offsets = [
            confluent_kafka.TopicPartition(topic, partition, offset)
            for (topic, partition), offset in self._to_commit.items()
        ]
        self._to_commit.clear()
        self._committed_at = now
        try:
            self._measures.lag(consumer, offsets)
            consumer.commit(offsets=offsets, asynchronous=asynchronous)
        except confluent_kafka.KafkaException as error:
            # Only informative: where to go on stands in the table.
            self._measures.kafka_error(error.args[0].name())

    def _next_done(self) -> Done | None:
        try:
            return self._committer.done.get_nowait()
        except Empty:
            return None

    def _raise_failure(self) -> None:
        failure = self._committer.failure
        if failure is not None:
            if isinstance(failure, SelfFenced):
                self._measures.fenced()
            raise failure

    def _ready(self) -> Health:
        reasons = []
        if not self._is_set_up:
            reasons.append("not set up yet")
        if self._pending:
            reasons.append("waiting for the positions of the assigned partitions")
        if (why := self._committer.waiting_for_database) is not None:
            reasons.append(f"waiting for the database: {why}")
        return Health(ok=False, reasons=tuple(reasons)) if reasons else WELL
