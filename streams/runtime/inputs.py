"""An input as the consumer read it, and as a core sees it."""

from __future__ import annotations

from typing import Any

from schemas.codec import SCHEMA_HEADER
from streams.runtime.outbox import InputRecord
from streams.runtime.stage import Input


def input_of(record: InputRecord) -> Input:
    """The record for the core of its partition."""
    return Input(
        partition=record.partition,
        offset=record.offset,
        appended_at=record.timestamp * 1_000_000,
        key=record.key,
        value=record.value or b"",
        schema=_schema(record.headers),
    )


def _schema(headers: Any) -> bytes | None:
    for name, value in headers or ():
        if name == SCHEMA_HEADER:
            found: bytes | None = value
            return found
    return None
