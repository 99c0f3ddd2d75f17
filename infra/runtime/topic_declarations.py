"""What a topic has to be, as ``infra/kafka/topics.toml`` declares it, and the comparison with what a broker has.

The declarations are the same for every fleet; prefix, partition count and replication are settings.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from enum import Enum
from functools import cache
from pathlib import Path

import msgspec

from infra.runtime.errors import ConfigError

DECLARATIONS_FILE = Path(__file__).parent.parent / "kafka" / "topics.toml"

HOUR_SECONDS = 3_600
LARGE_MESSAGE_BYTES = 4 * 1024 * 1024
"""Default size limit: room for a whole snapshot part and for a batch of changes."""


class Cleanup(Enum):
    """Kafka's ``cleanup.policy``; the combination of both is not used."""

    DELETE = "delete"
    COMPACT = "compact"


class TimestampType(Enum):
    """Whose clock stamps a record. Kafka's ``message.timestamp.type``."""

    CREATE = "create"
    LOG_APPEND = "log-append"

    @property
    def kafka_name(self) -> str:
        return "LogAppendTime" if self is TimestampType.LOG_APPEND else "CreateTime"


class TopicDeclaration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One topic as declared. ``retention_seconds`` -1 keeps records for ever; it means nothing when compacted.

    ``min_compaction_lag_seconds`` is how long a reader may trail and still see every record of a compacted topic:
    an hour, so that a consumer joining changes to state never misses a head between the two.
    """

    purpose: str
    cleanup: Cleanup
    retention_seconds: int = -1
    max_message_bytes: int = LARGE_MESSAGE_BYTES
    min_compaction_lag_seconds: int = HOUR_SECONDS
    timestamp: TimestampType = TimestampType.CREATE
    segment_bytes: int = 134_217_728
    segment_seconds: int = HOUR_SECONDS

    def kafka_configs(self, *, min_insync_replicas: int) -> dict[str, str]:
        """Kafka's topic configuration for creating this topic, names and values as the broker takes them."""
        configs = {
            "cleanup.policy": self.cleanup.value,
            "compression.type": "producer",
            "max.message.bytes": str(self.max_message_bytes),
            "message.timestamp.type": self.timestamp.kafka_name,
            "min.insync.replicas": str(min_insync_replicas),
            "segment.bytes": str(self.segment_bytes),
            "segment.ms": str(self.segment_seconds * 1000),
        }
        if self.cleanup is Cleanup.COMPACT:
            configs["min.compaction.lag.ms"] = str(self.min_compaction_lag_seconds * 1000)
        else:
            configs["retention.ms"] = str(_milliseconds(self.retention_seconds))
        return configs


class FoundTopic(msgspec.Struct, frozen=True, kw_only=True):
    """One topic as a broker has it. ``topic_id`` is canonical lower-case UUID text; a re-created topic has another."""

    name: str
    topic_id: str
    partitions: int
    configs: Mapping[str, str]


class TopicProblem(msgspec.Struct, frozen=True, kw_only=True):
    """One reason not to start, for a human. ``alter`` holds the configs that mend it safely, if any do."""

    topic: str
    what: str
    advice: str
    alter: Mapping[str, str] = {}

    def __str__(self) -> str:
        return f"topic {self.topic} {self.what}: {self.advice}"


def load_declarations(path: Path = DECLARATIONS_FILE) -> Mapping[str, TopicDeclaration]:
    """Every declared topic by its name without prefix, in file order. ConfigError names the bad field."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        return msgspec.convert(tables, dict[str, TopicDeclaration])
    except OSError as error:
        raise ConfigError("cannot read the topic declarations", where=str(path)) from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(str(error), where=str(path), advice="mend that topic's table") from error


@cache
def declarations() -> Mapping[str, TopicDeclaration]:
    """The declarations this program ships with, read once."""
    return load_declarations()


def problems_of(declared: TopicDeclaration, found: FoundTopic, *, partitions: int) -> list[TopicProblem]:
    """Every way in which a found topic cannot serve, worst first; empty when it can.

    A missing config counts as the broker's default would: unusable, since none of the defaults is ours.
    """
    problems = []
    if found.partitions != partitions:
        problems.append(_wrong_partitions(found, partitions))
    for config, expected in (
        ("cleanup.policy", declared.cleanup.value),
        ("message.timestamp.type", declared.timestamp.kafka_name),
    ):
        value = found.configs.get(config, "unknown")
        if value != expected:
            problems.append(_wrong_value(found, config, value, expected))
    for config, least in _at_least(declared).items():
        value = found.configs.get(config, "unknown")
        if not value.isdecimal() or int(value) < least:
            problems.append(_too_low(found, config, value, least))
    return problems


def missing_topic(name: str) -> TopicProblem:
    """The problem that there is no such topic."""
    return TopicProblem(
        topic=name, what="does not exist", advice="create it with `deltavisor topics apply`, or mend the topic prefix"
    )


def _at_least(declared: TopicDeclaration) -> dict[str, int]:
    limits = {"max.message.bytes": declared.max_message_bytes}
    if declared.cleanup is Cleanup.COMPACT:
        limits["min.compaction.lag.ms"] = declared.min_compaction_lag_seconds * 1000
    return limits


def _wrong_partitions(found: FoundTopic, partitions: int) -> TopicProblem:
    return TopicProblem(
        topic=found.name,
        what=f"has {found.partitions} partitions, this topic set has {partitions}",
        advice=(
            "a count is fixed for the life of a set, as keys would move; "
            "set topics.partitions to the count the set was made with, or use another topic prefix"
        ),
    )


def _wrong_value(found: FoundTopic, config: str, value: str, expected: str) -> TopicProblem:
    return TopicProblem(
        topic=found.name,
        what=f"has {config}={value}, but must have {expected}",
        advice=(
            "not mended here, since what is already in the log was written under the other rule; "
            "delete and create the topic, or use another topic prefix"
        ),
    )


def _too_low(found: FoundTopic, config: str, value: str, least: int) -> TopicProblem:
    return TopicProblem(
        topic=found.name,
        what=f"has {config}={value}, but needs at least {least}",
        advice="raise it with `deltavisor topics apply --alter`",
        alter={config: str(least)},
    )


def _milliseconds(seconds: int) -> int:
    return -1 if seconds < 0 else seconds * 1000
