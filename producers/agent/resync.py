"""Listen for resync requests: only the partitions of our own hosts, no consumer group, nothing committed.

Starts ten minutes back, so that a request made while the agent was away is still answered.
"""

import threading
import time
from collections.abc import Callable, Iterable

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from infra.runtime.kafka import make_consumer, unreachable
from infra.runtime.log import get_logger
from infra.runtime.settings import KafkaSettings, TopicSettings
from infra.runtime.topics import RESYNC_REQUESTS
from schemas.codec import SCHEMA_HEADER, RecordError, decode, guard
from schemas.ids import HostId, key_of, partition_of
from schemas.resync import ResyncRequest

LOOK_BACK_SECONDS = 600.0
REQUEST_LIMIT_BYTES = 16 * 1024
REQUEST_SECONDS = 5.0
POLL_SECONDS = 0.5
CATCH_UP_SECONDS = 2.0
"""How long a starting agent waits for old requests, so that its first snapshot answers them."""

_log = get_logger(__name__)


class ResyncListener:
    """Calls `deliver` in its own thread for every request to one of these hosts. `setup`, `run(stop)`, `close`."""

    def __init__(
        self,
        kafka: KafkaSettings,
        topics: TopicSettings,
        hosts: Iterable[HostId],
        deliver: Callable[[ResyncRequest], None],
        *,
        wall_seconds: Callable[[], float] = time.time,
    ) -> None:
        self._kafka = kafka
        self._topic = kafka.topic_prefix + RESYNC_REQUESTS
        self._keys = {key_of(host_id) for host_id in hosts}
        self._partitions = sorted({partition_of(key, topics.partitions) for key in self._keys})
        self._deliver = deliver
        self._wall_seconds = wall_seconds
        self._consumer: Consumer | None = None

    def setup(self) -> None:
        """Find where to start; safe to repeat. Raises NeighbourUnreachable."""
        if self._consumer is None:
            self._consumer = make_consumer(self._kafka, group_id="deltavisor-agent")
        try:
            self._consumer.assign(self._start(self._consumer, self._partitions))
        except KafkaException as error:
            raise unreachable(self._kafka, error) from error

    def _start(self, consumer: Consumer, partitions: list[int]) -> list[TopicPartition]:
        since_ms = int((self._wall_seconds() - LOOK_BACK_SECONDS) * 1000)
        wanted = [TopicPartition(self._topic, partition, since_ms) for partition in partitions]
        found = consumer.offsets_for_times(wanted, timeout=REQUEST_SECONDS)
        for place in found:
            if place.offset < 0:
                _, place.offset = consumer.get_watermark_offsets(
                    TopicPartition(self._topic, place.partition), timeout=REQUEST_SECONDS
                )
        return list(found)

    def catch_up(self) -> None:
        """Deliver what is in the log already, for a short time at most."""
        consumer = self._require()
        deadline = time.monotonic() + CATCH_UP_SECONDS
        try:
            ends = {
                partition: consumer.get_watermark_offsets(
                    TopicPartition(self._topic, partition), timeout=REQUEST_SECONDS
                )[1]
                for partition in self._partitions
            }
            while time.monotonic() < deadline:
                places = consumer.position([TopicPartition(self._topic, partition) for partition in ends])
                starts = {place.partition: place.offset for place in consumer.assignment()}
                read_to = {place.partition: max(place.offset, starts[place.partition]) for place in places}
                if all(read_to[partition] >= end for partition, end in ends.items()):
                    return
                self._take(consumer.poll(0.1))
        except KafkaException as error:
            _log.warning("resync_catch_up_failed", error=str(error))

    def run(self, stop: threading.Event) -> None:
        """Deliver requests until asked to stop. A broker that is away only delays them."""
        consumer = self._require()
        while not stop.is_set():
            self._take(consumer.poll(POLL_SECONDS))

    def close(self) -> None:
        """Leave; safe to repeat."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _require(self) -> Consumer:
        if self._consumer is None:
            raise RuntimeError("ResyncListener.run before setup")
        return self._consumer

    def _take(self, message: Message | None) -> None:
        if message is None:
            return
        error = message.error()
        if error is not None:
            self._recover(error, message.partition())
            return
        value = message.value()
        if message.key() not in self._keys or value is None:
            return
        try:
            guard(value, REQUEST_LIMIT_BYTES)
            header = dict(message.headers() or []).get(SCHEMA_HEADER)
            request = decode(ResyncRequest, value, header)
        except RecordError as problem:
            _log.warning(
                "resync_request_refused",
                error=str(problem),
                topic=self._topic,
                partition=message.partition(),
                offset=message.offset(),
            )
            return
        self._deliver(request)

    def _recover(self, error: KafkaError, partition: int | None) -> None:
        """An offset that is gone from the log: nothing was missed that is still of use, so start again."""
        if error.code() not in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE) or partition is None:
            return
        consumer = self._require()
        try:
            for place in self._start(consumer, [partition]):
                consumer.seek(place)
        except KafkaException as problem:
            _log.warning("resync_seek_failed", error=str(problem), partition=partition)
