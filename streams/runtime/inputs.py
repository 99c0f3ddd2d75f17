"""An input as the consumer read it, as a core sees it, and where it is acknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from schemas.codec import schema_in
from streams.runtime.stage import Input


class InputRecord(Protocol):
    """An input as the consumer read it (aiokafka's `ConsumerRecord`)."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    """Log-append time, milliseconds."""
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Feed(Protocol):
    """Where inputs came from and are acknowledged."""

    def ack(self, record: InputRecord, /) -> object:
        """Everything that this input, and all before it in its partition, caused is durable."""
        ...


def input_of(record: InputRecord) -> Input:
    """The record for the core of its partition."""
    return Input(
        partition=record.partition,
        offset=record.offset,
        appended_at=record.timestamp * 1_000_000,
        key=record.key,
        value=record.value or b"",
        schema=schema_in(record.headers),
    )
