"""A dead letter as a value: read from a message, chosen by filters, shown without harm. Pure.

Letters hold whatever somebody wrote: nothing of one reaches a terminal but printable characters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, Self

import msgspec

from infra.cli.describe import as_json
from infra.runtime.errors import ConfigError
from schemas.catalogue import decode_any
from schemas.codec import RecordError, guard
from schemas.dead_letter import LETTER_LIMIT_BYTES

RETRIED: Final = "retried"
"""Reason of the record that marks a letter as tried again; its value is empty."""
RETRIED_HEADER: Final = "dlq.retried"
SHOWN_BYTES: Final = 256
_SPANS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Place(msgspec.Struct, frozen=True, order=True):
    """Where a letter stands in dead.letters."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}@{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `partition@offset`; raises ConfigError."""
        found = re.fullmatch(r"(\d{1,9})@(\d{1,19})", text)
        if found is None:
            raise ConfigError(f"{text!r} is no place of a letter", advice="copy one such as 2@17 from `dlq list`")
        return cls(int(found[1]), int(found[2]))


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """One dead letter. Texts come from headers and may be anything."""

    place: Place
    written_at: datetime
    key: bytes | None
    value: bytes
    headers: Mapping[str, bytes]

    def text(self, name: str) -> str:
        """A header, `-` when it is missing."""
        return self.headers.get(name, b"-").decode("utf-8", "replace")

    @property
    def topic(self) -> str:
        """Where the original stood, bare name."""
        return self.text("dlq.topic")

    @property
    def reason(self) -> str:
        """Why it is here, one word."""
        return self.text("dlq.reason")

    @property
    def original(self) -> str:
        """Place of the original."""
        return f"{self.topic}[{self.text('dlq.partition')}]@{self.text('dlq.offset')}"

    @property
    def is_cut(self) -> bool:
        """The value is only the beginning of the original."""
        return "dlq.size" in self.headers

    @property
    def marks(self) -> Place | None:
        """The letter that this record says was tried again; None for a letter."""
        if self.reason != RETRIED:
            return None
        try:
            return Place.parse(self.text(RETRIED_HEADER))
        except ConfigError:
            return None


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which letters somebody looks for; None: all."""

    stage: str | None = None
    reason: str | None = None
    host: str | None = None
    vm: str | None = None
    since: datetime | None = None

    def fits(self, letter: Letter) -> bool:
        """Ids may be given by their beginning."""
        asked = ((self.stage, "dlq.stage"), (self.reason, "dlq.reason"))
        if any(word is not None and letter.text(header) != word for word, header in asked):
            return False
        begun = ((self.host, "dlq.host"), (self.vm, "dlq.vm"))
        if any(start is not None and not letter.text(header).startswith(start.lower()) for start, header in begun):
            return False
        return self.since is None or letter.written_at >= self.since


def since(text: str, now: datetime) -> datetime:
    """`15m`, `2h`, `1d` ago, or an ISO time (UTC when it names no zone); raises ConfigError."""
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if found is not None:
        return now - timedelta(seconds=int(found[1]) * _SPANS[found[2]])
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{text!r} is no time", advice="give 15m, 2h, 1d or 2026-01-31T12:00") from error
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def printable(text: str) -> str:
    """The text with everything that a terminal could take for more than text written out as an escape."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def content(letter: Letter) -> str:
    """What the letter holds: the record as JSON when it is one, else its first bytes."""
    try:
        guard(letter.value, LETTER_LIMIT_BYTES)
        record = decode_any(letter.value, letter.headers.get("schema"))
    except RecordError as problem:
        return f"not a record ({printable(str(problem))}); {_bytes(letter.value)}"
    return printable(as_json(record).decode("utf-8", "replace"))


def _bytes(value: bytes) -> str:
    more = f" and {len(value) - SHOWN_BYTES} more" if len(value) > SHOWN_BYTES else ""
    return f"{len(value)} bytes: {value[:SHOWN_BYTES].hex(' ')}{more}"
