"""Nobody may work on the tables while they are changed by hand: the consumer groups must be empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import confluent_kafka
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition

from infra.runtime.errors import ConfigError, NeighbourUnreachable
from infra.runtime.kafka import make_admin, make_consumer, unreachable
from infra.runtime.settings import KafkaSettings

STAGES: Final = ("hosts", "vms")
_REQUEST_SECONDS = 15.0


def group_of(kafka: KafkaSettings, stage: str) -> str:
    """The consumer group of a stage, as `StreamSettings.group` names it."""
    return f"{kafka.topic_prefix}deltavisor-{stage}"


def require_stopped(kafka: KafkaSettings, groups: Sequence[str]) -> None:
    """Raise ConfigError when a group has members. A worker that was killed counts until its session is over."""
    futures = make_admin(kafka).describe_consumer_groups(list(groups), request_timeout=_REQUEST_SECONDS)
    for group, future in futures.items():
        try:
            members = future.result().members
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                continue
            raise unreachable(kafka, error) from error
        if members:
            who = ", ".join(sorted(member.group_instance_id or member.client_id for member in members))
            raise ConfigError(
                f"{len(members)} workers run ({who})",
                where=f"consumer group {group}",
                advice="stop the line (agents may go on), wait ten seconds after a kill, then try again",
            )


def set_offsets(kafka: KafkaSettings, group: str, topic: str, offsets: Mapping[int, int]) -> None:
    """Where an empty group goes on reading. Raises NeighbourUnreachable."""
    if not offsets:
        return
    places = [TopicPartition(kafka.topic_prefix + topic, part, offset) for part, offset in offsets.items()]
    asked = [ConsumerGroupTopicPartitions(group, places)]
    for future in make_admin(kafka).alter_consumer_group_offsets(asked, request_timeout=_REQUEST_SECONDS).values():
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
    """First and next offset of every partition of a topic (without prefix). Raises NeighbourUnreachable."""
    consumer = make_consumer(kafka, group_id="deltavisor-bounds")
    try:
        return {
            part: consumer.get_watermark_offsets(
                confluent_kafka.TopicPartition(kafka.topic_prefix + topic, part), timeout=_REQUEST_SECONDS
            )
            for part in range(partitions)
        }
    except KafkaException as error:
        raise unreachable(kafka, error) from error
    finally:
        consumer.close()
