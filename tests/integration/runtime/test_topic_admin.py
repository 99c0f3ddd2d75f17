"""Topic admin against a real broker: creating, checking, and a sentence for everything that can be wrong."""

from __future__ import annotations

import re
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import ConfigResource, NewTopic, ResourceType
from typer.testing import CliRunner

from infra.cli.topics import app
from infra.runtime.errors import ConfigError, NeighbourUnreachable, TopicMismatch
from infra.runtime.kafka import make_admin, make_consumer, make_producer, wait_for_kafka
from infra.runtime.settings import KafkaSettings, TopicSettings
from infra.runtime.topic_declarations import declarations
from infra.runtime.topics import ALL_TOPICS, HOST_REPORTS, VM_CHANGES, VM_STATE, TopicAdmin
from infra.stack.endpoints import Endpoints

pytestmark = pytest.mark.stack

LOG_APPEND_TIME = 2
"""``TIMESTAMP_LOG_APPEND_TIME`` of the Kafka client."""


@pytest.fixture
def kafka(endpoints: Endpoints) -> Iterator[KafkaSettings]:
    """A connection with a topic prefix of its own; what was created under it is deleted afterwards."""
    settings = KafkaSettings(bootstrap=endpoints.kafka, topic_prefix=f"test-{uuid.uuid4().hex[:8]}.")
    yield settings
    admin = make_admin(settings)
    ours = [name for name in admin.list_topics(timeout=10).topics if name.startswith(settings.topic_prefix)]
    if ours:
        for future in admin.delete_topics(ours).values():
            future.result()


def _admin(kafka: KafkaSettings, partitions: int = 4) -> TopicAdmin:
    return TopicAdmin(kafka, TopicSettings(partitions=partitions))


def _create(kafka: KafkaSettings, topic: str, *, partitions: int = 4, changed: Mapping[str, str] | None = None) -> None:
    """Create one topic as declared but for what is given."""
    configs = declarations()[topic].kafka_configs(min_insync_replicas=1) | dict(changed or {})
    admin = make_admin(kafka)  # kept: a client that is gone fails what it was asked
    new = NewTopic(kafka.topic_prefix + topic, partitions, 1, config=configs)
    admin.create_topics([new], operation_timeout=15)[new.topic].result()
    deadline = time.monotonic() + 10
    while not _admin(kafka).find([topic]):
        assert time.monotonic() < deadline, f"{new.topic} stays unknown"
        time.sleep(0.05)


def _delete(kafka: KafkaSettings, topic: str) -> None:
    admin = make_admin(kafka)
    name = kafka.topic_prefix + topic
    admin.delete_topics([name], operation_timeout=15)[name].result()


def _broker_config(kafka: KafkaSettings, topic: str, config: str) -> str:
    resource = ConfigResource(ResourceType.TOPIC, kafka.topic_prefix + topic)
    admin = make_admin(kafka)
    value: str = admin.describe_configs([resource])[resource].result()[config].value
    return value


def test_apply_creates_every_topic_as_declared_and_can_be_repeated(kafka: KafkaSettings) -> None:
    admin = _admin(kafka)
    applied = admin.apply()
    assert applied.created == tuple(kafka.topic_prefix + topic for topic in ALL_TOPICS)
    assert applied.problems == ()
    assert admin.check() == []
    assert {found.partitions for found in admin.require(ALL_TOPICS).values()} == {4}
    again = admin.apply()
    assert (again.created, again.altered, len(again.unchanged)) == ((), (), len(ALL_TOPICS))


def test_ids_are_canonical_and_change_when_a_topic_is_made_anew(kafka: KafkaSettings) -> None:
    admin = _admin(kafka)
    admin.apply([VM_STATE])
    first = admin.topic_ids([VM_STATE])
    assert first == {VM_STATE: str(uuid.UUID(first[VM_STATE]))}
    _delete(kafka, VM_STATE)
    admin.apply([VM_STATE])
    assert admin.topic_ids([VM_STATE]) != first


def test_two_programs_may_apply_at_once(kafka: KafkaSettings) -> None:
    with ThreadPoolExecutor(max_workers=3) as pool:
        applied = list(pool.map(lambda admin: admin.apply(), [_admin(kafka) for _ in range(3)]))
    created = [name for one in applied for name in one.created]
    assert sorted(created) == sorted(kafka.topic_prefix + topic for topic in ALL_TOPICS)
    assert all(one.problems == () for one in applied)


def test_a_missing_topic_is_named_with_what_to_do(kafka: KafkaSettings) -> None:
    admin = _admin(kafka)
    admin.apply([VM_STATE])
    with pytest.raises(TopicMismatch) as mismatch:
        admin.require([VM_STATE, VM_CHANGES])
    assert str(mismatch.value) == (
        f"Kafka at {kafka.bootstrap}: topic {kafka.topic_prefix}vm.changes does not exist: "
        "create it with `deltavisor topics apply`, or mend the topic prefix"
    )
    assert admin.topic_ids([VM_CHANGES]) == {}


def test_a_wrong_partition_count_is_refused_and_never_changed(kafka: KafkaSettings) -> None:
    _create(kafka, VM_CHANGES, partitions=6)
    admin = _admin(kafka)
    with pytest.raises(TopicMismatch, match=r"vm\.changes has 6 partitions, this topic set has 4"):
        admin.require([VM_CHANGES])
    (problem,) = admin.apply([VM_CHANGES], alter=True).problems
    assert "has 6 partitions" in problem.what
    assert admin.find([VM_CHANGES])[VM_CHANGES].partitions == 6


@pytest.mark.parametrize(
    ("topic", "config", "value", "sentence"),
    [
        (VM_STATE, "cleanup.policy", "delete", "has cleanup.policy=delete, but must have compact"),
        (VM_CHANGES, "cleanup.policy", "compact", "has cleanup.policy=compact, but must have delete"),
        (HOST_REPORTS, "message.timestamp.type", "CreateTime", "but must have LogAppendTime"),
    ],
)
def test_what_decided_the_content_of_the_log_is_refused_and_never_changed(
    kafka: KafkaSettings, topic: str, config: str, value: str, sentence: str
) -> None:
    _create(kafka, topic, changed={config: value})
    admin = _admin(kafka)
    with pytest.raises(TopicMismatch, match=re.escape(sentence)):
        admin.require([topic])
    applied = admin.apply([topic], alter=True)
    assert applied.altered == ()
    assert len(applied.problems) == 1
    assert _broker_config(kafka, topic, config) == value


@pytest.mark.parametrize(
    ("config", "declared"), [("max.message.bytes", "4194304"), ("min.compaction.lag.ms", "3600000")]
)
def test_a_limit_that_is_too_low_is_raised_when_asked(kafka: KafkaSettings, config: str, declared: str) -> None:
    _create(kafka, VM_STATE, changed={config: "1000"})
    admin = _admin(kafka)
    (problem,) = admin.apply([VM_STATE]).problems
    assert f"has {config}=1000, but needs at least {declared}" in problem.what
    assert _broker_config(kafka, VM_STATE, config) == "1000"
    applied = admin.apply([VM_STATE], alter=True)
    assert applied.altered == (kafka.topic_prefix + VM_STATE,)
    assert applied.problems == ()
    assert admin.check([VM_STATE]) == []


def test_more_replicas_than_brokers_is_a_configuration_error(kafka: KafkaSettings) -> None:
    admin = TopicAdmin(kafka, TopicSettings(replication_factor=9))
    with pytest.raises(ConfigError, match="INVALID_REPLICATION_FACTOR"):
        admin.apply([VM_STATE])


def test_keys_meet_in_the_partition_that_the_java_clients_choose(kafka: KafkaSettings) -> None:
    """The same keys through our producer as in the reference of Kafka's own murmur2 test."""
    _admin(kafka).apply([HOST_REPORTS])
    wait_for_kafka(kafka)
    topic = kafka.topic_prefix + HOST_REPORTS
    # (murmur2(key) & 0x7fffffff) % 4 with the hashes of org.apache.kafka.common.utils.UtilsTest.testMurmur2
    hashes = {"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536}
    delivered: dict[str, int] = {}
    timestamps: set[int] = set()

    def on_delivery(error: object, message: object) -> None:
        assert error is None
        delivered[message.key().decode()] = message.partition()  # type: ignore[attr-defined]  # untyped client
        timestamps.add(message.timestamp()[0])  # type: ignore[attr-defined]  # untyped client

    producer = make_producer(kafka)
    for key in hashes:
        producer.produce(topic, key=key, value=b"", on_delivery=on_delivery)
    assert producer.flush(10) == 0
    assert delivered == {key: (value & 0x7FFFFFFF) % 4 for key, value in hashes.items()}


def test_reports_carry_the_time_of_the_log(kafka: KafkaSettings) -> None:
    _admin(kafka).apply([HOST_REPORTS])
    topic = kafka.topic_prefix + HOST_REPORTS
    producer = make_producer(kafka)
    producer.produce(topic, value=b"report", partition=1, timestamp=1_000)
    assert producer.flush(10) == 0
    consumer = make_consumer(kafka, group_id="reader")
    try:
        consumer.assign([TopicPartition(topic, 1, 0)])
        message = consumer.poll(10)
        assert message.error() is None
        kind, milliseconds = message.timestamp()
        assert kind == LOG_APPEND_TIME
        assert milliseconds > 1_000_000
    finally:
        consumer.close()


def test_an_unreachable_broker_is_named_with_its_cause() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(NeighbourUnreachable, match=f"Kafka at {address}: no broker answered .*Connection refused"):
        TopicAdmin(KafkaSettings(bootstrap=address), TopicSettings()).check([VM_STATE])


def test_the_command_creates_checks_and_ends_with_its_codes(kafka: KafkaSettings) -> None:
    runner = CliRunner()
    where = ["--bootstrap", kafka.bootstrap, "--prefix", kafka.topic_prefix]
    missing = runner.invoke(app, ["check", *where, VM_CHANGES])
    assert (missing.exit_code, missing.stderr.count("does not exist")) == (75, 1)
    assert runner.invoke(app, ["apply", *where]).exit_code == 0
    assert "topics as declared: 16, with 4 partitions each" in runner.invoke(app, ["check", *where]).stdout
    wrong = runner.invoke(app, ["check", *where, "--partitions", "6"])
    assert (wrong.exit_code, wrong.stderr.count("this topic set has 6")) == (75, 16)
    unknown = runner.invoke(app, ["check", *where, "vm.change"])
    assert (unknown.exit_code, "did you mean 'vm.changes'" in unknown.stderr) == (64, True)
