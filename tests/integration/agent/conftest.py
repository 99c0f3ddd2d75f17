"""A topic set of its own for every test, and what its reports add up to."""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer, TopicPartition

from infra.runtime.kafka import make_consumer
from infra.runtime.settings import HttpSettings, KafkaSettings, TopicSettings
from infra.runtime.topics import HOST_REPORTS, TopicAdmin
from infra.stack.endpoints import Endpoints
from producers.agent.settings import AgentSettings
from schemas.codec import decode, guard
from schemas.report import HostReport
from tests.unit.producers.agent.receiver import Receiver


@pytest.fixture
def settings(endpoints: Endpoints) -> AgentSettings:
    """Settings of an agent on topics that were just made."""
    kafka = KafkaSettings(bootstrap=endpoints.kafka, topic_prefix=f"{uuid.uuid4().hex[:12]}.")
    topics = TopicSettings(partitions=2)
    TopicAdmin(kafka, topics).apply()
    return AgentSettings(
        kafka=kafka,
        topics=topics,
        http=HttpSettings(port=None),
        heartbeat_seconds=0.5,
        snapshot_interval_seconds=1.0,
        drain_seconds=5.0,
    )


class Reports:
    """Reads host.reports from its start into one receiver per host."""

    def __init__(self, settings: AgentSettings) -> None:
        self.by_host: dict[bytes, Receiver] = defaultdict(Receiver)
        self.taken: list[HostReport] = []
        topic = settings.kafka.topic_prefix + HOST_REPORTS
        self._consumer: Consumer = make_consumer(settings.kafka, group_id="test")
        self._consumer.assign([TopicPartition(topic, partition, 0) for partition in range(settings.topics.partitions)])

    def read_until(self, reached: Callable[[], bool], timeout_seconds: float = 20.0) -> None:
        """Apply reports until something is so; fails when it never is."""
        deadline = time.monotonic() + timeout_seconds
        while not reached():
            assert time.monotonic() < deadline, "the reports never came to say so"
            self.read_some(0.2)

    def read_some(self, timeout_seconds: float) -> None:
        message = self._consumer.poll(timeout_seconds)
        if message is None or message.error() is not None:
            return
        value, headers = message.value(), dict(message.headers() or [])
        assert value is not None
        guard(value)
        report = decode(HostReport, value, headers.get("schema"))
        self.taken.append(report)
        self.by_host[report.host_id].take(report)

    @property
    def problems(self) -> list[str]:
        return [problem for receiver in self.by_host.values() for problem in receiver.problems]

    def close(self) -> None:
        self._consumer.close()


@pytest.fixture
def reports(settings: AgentSettings) -> Iterator[Reports]:
    reading = Reports(settings)
    yield reading
    reading.close()
