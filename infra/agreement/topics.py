"""Reads whole topics, from their start to the end they had when asked."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import TypeVar

import confluent_kafka

from infra.agreement.fold import Fold
from infra.runtime.errors import NeighbourUnreachable
from infra.runtime.kafka import make_consumer
from infra.runtime.settings import KafkaSettings
from infra.runtime.topics import VM_CHANGES, TopicSet
from schemas.codec import SCHEMA_HEADER, Record, decode
from schemas.vm_change import VmChange

R = TypeVar("R", bound=Record)

_SILENCE_SECONDS = 15.0
_GATHER_SECONDS = 0.1
"""A `consume` waits for its whole number of records or for this long."""


def messages(
    kafka: KafkaSettings, topics: TopicSet, topic: str, starts: Mapping[int, int] | None = None
) -> Iterator[confluent_kafka.Message]:
    """Every message of a topic, in order within each partition; from these offsets on, where they are given.

    Raises NeighbourUnreachable when the broker stops answering before the end.
    """
    consumer = make_consumer(kafka, group_id=f"deltavisor-agreement-{os.getpid()}", fetch_wait_max_ms=50)
    try:
        name = topics.name(topic)
        places, ends = [], {}
        for partition in range(topics.partitions):
            low, high = consumer.get_watermark_offsets(confluent_kafka.TopicPartition(name, partition), timeout=10)
            low = max(low, starts.get(partition, low)) if starts else low
            if low < high:
                places.append(confluent_kafka.TopicPartition(name, partition, low))
                ends[partition] = high
        consumer.assign(places)
        heard_at = time.monotonic()
        while ends:
            batch = consumer.consume(5_000, _GATHER_SECONDS)
            if batch:
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > _SILENCE_SECONDS:
                told = f"no record for {_SILENCE_SECONDS:.0f} s before the end"
                raise NeighbourUnreachable(told, where=f"topic {name}")
            for message in batch:
                if message.error() is not None:
                    raise NeighbourUnreachable(str(message.error()), where=f"topic {name}")
                yield message
            for place in consumer.position(places):
                if place.offset >= ends.get(place.partition, 0):
                    ends.pop(place.partition, None)
    finally:
        consumer.close()


def records(kafka: KafkaSettings, topics: TopicSet, topic: str, kind: type[R]) -> Iterator[R]:
    """Every record of a topic that holds one kind of record and no deletes."""
    for message in messages(kafka, topics, topic):
        value = message.value()
        if value is not None:
            yield decode(kind, value, dict(message.headers() or []).get(SCHEMA_HEADER))


def fold_vm_changes(kafka: KafkaSettings, topics: TopicSet) -> Fold:
    """The fold of everything `vm.changes` holds now."""
    fold = Fold()
    for change in records(kafka, topics, VM_CHANGES, VmChange):
        fold.add(change)
    return fold
