"""What a worker proves before its first record: each check stands for a way in which changes were once lost.

Blocking; runs before the event loop.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from confluent_kafka import KafkaError, Message, Producer

from infra.runtime.errors import ConfigError, NeighbourUnreachable, TopicMismatch
from infra.runtime.kafka import make_producer
from infra.runtime.metrics import SPECS, CounterSpec, GaugeSpec
from infra.runtime.topics import DEAD_LETTERS, FoundTopic, TopicAdmin
from schemas.ids import partition_of
from streams.runtime.loading import SELFTEST_KEY
from streams.runtime.settings import StreamSettings
from streams.runtime.stage import Stage

DELIVERY_SECONDS = 10.0


def require_decompression() -> None:
    """aiokafka reads lz4 and zstd only with cramjam, and dies at the first compressed batch without it."""
    if importlib.util.find_spec("cramjam") is None:
        raise ConfigError(
            "cramjam is not installed, so compressed records cannot be read",
            where="stream runtime",
            advice="install requirements/run.txt",
        )


def require_stage(stage: Stage, component: str) -> None:
    """The stage keeps the contract where that can be seen beforehand. ValueError otherwise."""
    if len(stage.inputs) != 1:
        raise ValueError(f"stage {stage.name} must have exactly one input, it has {stage.inputs}")
    known = countable(component)
    if unknown := sorted(set(stage.metric_names()) - known.keys()):
        raise ValueError(f"stage {stage.name} counts {', '.join(unknown)}; known are {', '.join(sorted(known))}")


def countable(component: str) -> dict[str, CounterSpec | GaugeSpec]:
    """The metrics a stage's core may add to, by the name it uses for them."""
    found: dict[str, CounterSpec | GaugeSpec] = {}
    for spec in SPECS:
        if isinstance(spec, CounterSpec | GaugeSpec) and spec.belongs_to(component):
            found["_".join(part for part in (spec.what, spec.unit.value) if part)] = spec
    return found


def topics_of(stage: Stage) -> tuple[str, ...]:
    """Every topic the stage reads or writes, each once."""
    return tuple(dict.fromkeys((*stage.inputs, stage.table_topic, *stage.outputs, DEAD_LETTERS)))


def limits_bytes(found: Mapping[str, FoundTopic]) -> dict[str, int]:
    """`max.message.bytes` by topic."""
    return {topic: int(description.configs["max.message.bytes"]) for topic, description in found.items()}


def require_topics(admin: TopicAdmin, stage: Stage) -> Mapping[str, FoundTopic]:
    """The topics of the stage as the broker has them. TopicMismatch when one differs from its declaration."""
    return admin.require(topics_of(stage))


def selftest_producer(settings: StreamSettings) -> Producer:
    """What `require_partitions` writes with. An idempotent producer needs half a second before it can send: make it
    first, and check something else meanwhile."""
    return make_producer(settings.kafka, linger_ms=0, delivery_timeout_ms=int(DELIVERY_SECONDS * 1000))


def require_partitions(settings: StreamSettings, stage: Stage, producer: Producer) -> None:
    """Delivered records are where they should be: in the partition asked for, and by key where our hash says.

    Writes two tombstones under `#selftest` to the table's log, which every reader of it skips.
    """
    partitions = settings.topics.partitions
    by_key = partition_of(SELFTEST_KEY, partitions)
    elsewhere = (by_key + 1) % partitions
    asked = _deliver(settings, stage, producer, elsewhere)
    if asked != elsewhere:
        raise TopicMismatch(
            f"a record for partition {elsewhere} was delivered to {asked}",
            where=settings.kafka.topic_prefix + stage.table_topic,
            advice="this version of confluent-kafka cannot be used",
        )
    hashed = _deliver(settings, stage, producer, None)
    if hashed != by_key:
        raise TopicMismatch(
            f"the producer puts the key {SELFTEST_KEY!r} into partition {hashed}, our hash into {by_key}",
            where=settings.kafka.topic_prefix + stage.table_topic,
            advice="every producer must use partitioner=murmur2_random; check the client's version",
        )


def _deliver(settings: StreamSettings, stage: Stage, producer: Producer, partition: int | None) -> int:
    """The partition one record ended in."""
    reports: list[tuple[KafkaError | None, int | None]] = []

    def report(error: KafkaError | None, message: Message) -> None:
        reports.append((error, message.partition()))

    topic = settings.kafka.topic_prefix + stage.table_topic
    chosen = {} if partition is None else {"partition": partition}
    producer.produce(topic, None, SELFTEST_KEY, on_delivery=report, **chosen)
    producer.flush(DELIVERY_SECONDS + 1.0)
    error, delivered = reports[0] if reports else (None, None)
    if error is not None or delivered is None:
        raise NeighbourUnreachable(
            f"the self-test record was not delivered ({error.str() if error else 'no answer'})",
            where=f"{topic} on Kafka at {settings.kafka.bootstrap}",
            advice="look at the broker's log and the permissions of this user",
        )
    return delivered
