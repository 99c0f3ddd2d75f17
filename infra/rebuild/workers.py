"""Nobody may work on the tables while they are changed by hand: the consumer groups must be empty."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from infra.runtime.errors import ConfigError, NeighbourUnreachable
from infra.runtime.kafka import make_admin, make_consumer, unreachable
from infra.runtime.settings import KafkaSettings

STAGES: Final = ("hosts", "vms")
PATIENCE_SECONDS = 20.0
"""Two sessions of the default length."""
_REQUEST_SECONDS = 15.0
_ASK_SECONDS = 0.5
_NOT_YET = frozenset(
    {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.UNKNOWN_TOPIC_OR_PART}
)


def group_of(kafka: KafkaSettings, stage: str) -> str:
    """The consumer group of a stage, as `StreamSettings.group` names it."""
    return f"{kafka.topic_prefix}deltavisor-{stage}"


def require_stopped(kafka: KafkaSettings, groups: Sequence[str], *, patience_seconds: float = PATIENCE_SECONDS) -> None:
    """Return once no group has members. Raises ConfigError when one still has after a while.

    Workers have static identities: one that was stopped counts until its session is over.
    """
    deadline = time.monotonic() + patience_seconds
    # Kept in a variable: the answers of a client that is gone never come.
    admin = make_admin(kafka)
    while members := _members(kafka, admin, groups):
        if time.monotonic() > deadline:
            group, who = next(iter(members.items()))
            raise ConfigError(
                f"workers run ({', '.join(who)})",
                where=f"consumer group {group}",
                advice="stop the line, then try again; agents may go on",
            )
        time.sleep(_ASK_SECONDS)


def _members(kafka: KafkaSettings, admin: AdminClient, groups: Sequence[str]) -> dict[str, list[str]]:
    """Who is in which group; groups without members are left out."""
    found = {}
    for group, future in admin.describe_consumer_groups(list(groups), request_timeout=_REQUEST_SECONDS).items():
        try:
            members = future.result().members
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                continue
            raise unreachable(kafka, error) from error
        if members:
            found[group] = sorted(member.group_instance_id or member.client_id for member in members)
    return found


def set_offsets(kafka: KafkaSettings, group: str, topic: str, offsets: Mapping[int, int]) -> None:
    """Where an empty group goes on reading. Raises NeighbourUnreachable."""
    if not offsets:
        return
    places = [TopicPartition(kafka.topic_prefix + topic, part, offset) for part, offset in offsets.items()]
    asked = [ConsumerGroupTopicPartitions(group, places)]
    admin = make_admin(kafka)
    for future in admin.alter_consumer_group_offsets(asked, request_timeout=_REQUEST_SECONDS).values():
        try:
            result = future.result()
        except KafkaException as error:
            raise unreachable(kafka, error) from error
        refused = [place for place in result.topic_partitions if place.error is not None]
        if refused:
            raise NeighbourUnreachable(
                f"the offset was refused ({refused[0].error.str()})", where=f"group {group}, {refused[0].topic}"
            )


def log_bounds(kafka: KafkaSettings, topic: str, partitions: int) -> dict[int, tuple[int, int]]:
    """First and next offset of every partition of a topic (without prefix), also of one created just now.

    Raises NeighbourUnreachable.
    """
    deadline = time.monotonic() + _REQUEST_SECONDS
    consumer = make_consumer(kafka, group_id="deltavisor-bounds")
    try:
        return {
            part: _bounds_of(consumer, TopicPartition(kafka.topic_prefix + topic, part), deadline)
            for part in range(partitions)
        }
    except KafkaException as error:
        raise unreachable(kafka, error) from error
    finally:
        consumer.close()


def _bounds_of(consumer: Consumer, place: TopicPartition, deadline: float) -> tuple[int, int]:
    """A partition that was created a moment ago has no leader yet."""
    while True:
        try:
            low, high = consumer.get_watermark_offsets(place, timeout=_REQUEST_SECONDS)
        except KafkaException as error:
            if time.monotonic() > deadline or error.args[0].code() not in _NOT_YET:
                raise
            time.sleep(_ASK_SECONDS)
        else:
            return low, high
