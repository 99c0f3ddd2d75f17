"""Reads whole topics, partition by partition, up to the end they had when asked."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

import confluent_kafka
from confluent_kafka.admin import AdminClient

HOST_REPORTS = "host.reports"
VM_OBSERVATIONS = "vm.observations"
VM_CHANGES = "vm.changes"
VM_STATE = "vm.state"
HOST_CHANGES = "host.changes"
HOST_STATE = "host.state"
DEAD_LETTERS = "dead.letters"
HOSTS_TABLE = "hosts.table"
TOPICS = (DEAD_LETTERS, HOST_STATE, VM_STATE, HOST_CHANGES, VM_CHANGES, VM_OBSERVATIONS, HOST_REPORTS)
"""Downstream first: ends read in this order never show an effect whose cause is beyond the end of its own topic."""

_SILENCE_SECONDS = 60.0
_ANSWER_SECONDS = 30.0


class Message(NamedTuple):
    """One record; `appended_at` is its timestamp in ns."""

    offset: int
    appended_at: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]


class Span(NamedTuple):
    """Offsets of a partition: the first that is there, and the one behind the last."""

    low: int
    high: int


Ends = dict[str, dict[int, Span]]
"""By topic (without prefix) and partition."""


class Logs(Protocol):
    """Where records come from; tests have one in memory."""

    def ends(self) -> Ends:
        """Spans of all topics, taken downstream first."""

    def read(self, topic: str, partition: int, span: Span) -> Iterator[Message]:
        """The records of a span, in order."""


class NoAnswer(Exception):
    """The broker stopped answering before the end; the text says where."""


class KafkaLogs:
    """A cluster's topics; use as a context."""

    def __init__(self, bootstrap: str, prefix: str, properties: Mapping[str, str]) -> None:
        common: dict[str, str] = {"bootstrap.servers": bootstrap, **properties}
        self._prefix = prefix
        self._admin = AdminClient(common)
        self._consumer = confluent_kafka.Consumer(
            common
            | {
                "group.id": f"verifier-{os.getpid()}",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 50,
                "queued.max.messages.kbytes": 32_768,
                "check.crcs": True,
            }
        )

    def __enter__(self) -> KafkaLogs:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def ends(self, topics: tuple[str, ...] = TOPICS) -> Ends:
        """See Logs. Raises NoAnswer; a topic that does not exist has no partitions."""
        try:
            known = self._admin.list_topics(timeout=_ANSWER_SECONDS).topics
            return {
                topic: {
                    partition: Span(*self._consumer.get_watermark_offsets(
                        confluent_kafka.TopicPartition(self._prefix + topic, partition), timeout=_ANSWER_SECONDS
                    ))
                    for partition in sorted(known[self._prefix + topic].partitions)
                }
                if self._prefix + topic in known
                else {}
                for topic in topics
            }  # fmt: skip
        except confluent_kafka.KafkaException as error:
            raise NoAnswer(f"ends of topics: {error}") from error

    def read(self, topic: str, partition: int, span: Span) -> Iterator[Message]:
        """See Logs. Raises NoAnswer."""
        if span.low >= span.high:
            return
        place = confluent_kafka.TopicPartition(self._prefix + topic, partition, span.low)
        self._consumer.assign([place])
        try:
            yield from self._read(place, span, f"{topic}[{partition}]")
        finally:
            self._consumer.unassign()

    def _read(self, place: confluent_kafka.TopicPartition, span: Span, where: str) -> Iterator[Message]:
        at, heard_at = span.low, time.monotonic()
        while at < span.high:
            batch = self._consumer.consume(min(5_000, span.high - at), 0.2)
            if batch:
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > _SILENCE_SECONDS:
                raise NoAnswer(f"{where}: nothing at {at}, the end is {span.high}")
            for message in batch:
                if message.error() is not None:
                    raise NoAnswer(f"{where}@{at}: {message.error()}")
                if message.offset() >= span.high:
                    return
                yield Message(
                    message.offset(),
                    message.timestamp()[1] * 1_000_000,
                    message.key(),
                    message.value(),
                    dict(message.headers() or ()),
                )
            # The last offsets of a compacted topic may hold nothing.
            (position,) = self._consumer.position([place])
            at = max(at, position.offset)
