"""Send reports to Kafka and say of each whether it arrived. One producer serves any number of hosts.

Order within a host is kept by the idempotent producer. What is on its way is bounded by the reporters, not here.
"""

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from confluent_kafka import KafkaError, Message, Producer

from infra.runtime.kafka import make_producer
from infra.runtime.log import get_logger
from infra.runtime.settings import KafkaSettings
from infra.runtime.topics import HOST_REPORTS
from schemas.codec import SCHEMA_HEADER, encode, header_of
from schemas.ids import AgentEpoch, HostId, key_of
from schemas.report import HostReport

POLL_SECONDS = 0.2
"""How long the delivery thread sleeps in librdkafka at most; confirmations wake it at once."""
LINGER_MS = 2
"""Reports of one moment share a request to the broker."""
BUFFER_KILOBYTES = 256 * 1024
"""Bound of librdkafka's queue: thousands of hosts beginning an epoch at once."""
FULL_WAIT_SECONDS = 0.05
CLOSE_SECONDS = 2.0

_log = get_logger(__name__)


class Delivery(NamedTuple):
    """The fate of one report; `error` None: it is in the log. `size` in bytes."""

    host_id: HostId
    epoch: AgentEpoch
    seq: int
    observed_at: int
    size: int
    error: KafkaError | None


class Publisher:
    """A producer and the thread that collects its confirmations.

    `send` and `deliveries` belong to one thread; `wake` is called in another one, whenever there are deliveries.
    """

    def __init__(self, kafka: KafkaSettings, *, delivery_timeout_seconds: float, wake: Callable[[], None]) -> None:
        self.topic = kafka.topic_prefix + HOST_REPORTS
        self._kafka = kafka
        self._timeout_ms = int(delivery_timeout_seconds * 1000)
        self._wake = wake
        self._done: deque[Delivery] = deque()
        self._headers = [(SCHEMA_HEADER, header_of(HostReport))]
        self._producer: Producer | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._broken = threading.Event()

    def setup(self) -> None:
        """Make the producer and its thread; safe to repeat. Connects in the background."""
        if self._producer is None:
            self._producer = self._make()
        if self._thread is None:
            self._thread = threading.Thread(target=self._collect, name="deliveries", daemon=True)
            self._thread.start()

    def _make(self) -> Producer:
        return make_producer(
            self._kafka,
            linger_ms=LINGER_MS,
            delivery_timeout_ms=self._timeout_ms,
            queue_buffering_max_kbytes=BUFFER_KILOBYTES,
            error_cb=self._on_error,
        )

    def send(self, report: HostReport) -> None:
        """Hand over a report; its fate comes by `deliveries`. Blocks while librdkafka's queue is full."""
        if self._broken.is_set():
            self._replace()
        value = encode(report)
        done = partial(
            self._on_delivery, report.host_id, report.agent_epoch, report.seq, report.observed_at, len(value)
        )
        while not self._closing.is_set():
            try:
                self._require().produce(
                    self.topic, value, key_of(report.host_id), headers=list(self._headers), on_delivery=done
                )
            except BufferError:
                self._closing.wait(FULL_WAIT_SECONDS)
            else:
                return

    def deliveries(self) -> list[Delivery]:
        """What was decided since the last call, in the order in which it was decided."""
        found = []
        while self._done:
            found.append(self._done.popleft())
        return found

    def flush(self, timeout_seconds: float) -> int:
        """Wait for everything on its way; returns how many are not decided by then."""
        return 0 if self._producer is None else int(self._producer.flush(timeout_seconds))

    def close(self) -> None:
        """Drop what was not delivered and end the thread; safe to repeat. Call `flush` before."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
            self._thread = None
        if self._producer is not None:
            self._producer.purge()
            self._producer.flush(CLOSE_SECONDS)
            self._producer = None

    def _require(self) -> Producer:
        if self._producer is None:
            raise RuntimeError("Publisher.send before setup")
        return self._producer

    def _replace(self) -> None:
        """A fatal error leaves an idempotent producer unusable: fail what it holds and take another."""
        old = self._require()
        self._broken.clear()
        self._producer = self._make()
        old.purge()
        old.flush(CLOSE_SECONDS)
        _log.warning("producer_replaced", topic=self.topic)

    def _collect(self) -> None:
        while not self._closing.is_set():
            producer = self._producer
            if producer is not None:
                producer.poll(POLL_SECONDS)

    def _on_delivery(
        self,
        host_id: HostId,
        epoch: AgentEpoch,
        seq: int,
        observed_at: int,
        size: int,
        error: KafkaError | None,
        message: Message,
    ) -> None:
        if error is not None and error.fatal():
            self._broken.set()
        self._done.append(Delivery(host_id, epoch, seq, observed_at, size, error))
        self._wake()

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._broken.set()
            _log.error("producer_failed", error=error.str(), code=error.name(), topic=self.topic)
