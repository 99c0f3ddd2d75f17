"""Letters: filters, what is shown of hostile bytes, and what it means to try one again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from infra.letters.letter import SHOWN_BYTES, Letter, Place, Wanted, content, printable, since
from infra.letters.retrying import Means, host_of, means_of
from infra.runtime.errors import ConfigError
from schemas.codec import encode, header_of
from schemas.dead_letter import LETTER_LIMIT_BYTES, dead_letter_headers, letter_value
from schemas.ids import HostId, RequestId, uuid_text
from schemas.resync import Asker, ResyncRequest

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOST = HostId(bytes(range(16)))


def letter(*, topic: str = "host.reports", value: bytes = b"\xc1", age_minutes: int = 5, **fields: Any) -> Letter:
    """A letter with standard headers."""
    told: dict[str, Any] = {"stage": "hosts", "reason": "malformed", "error": "no record", "schema": None}
    headers = dead_letter_headers(topic=topic, partition=1, offset=7, **{**told, "host": uuid_text(HOST), **fields})
    return Letter(
        place=Place(1, 3),
        written_at=NOW - timedelta(minutes=age_minutes),
        key=b"k",
        value=value,
        headers=dict(headers),
    )


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (Wanted(), True),
        (Wanted(stage="hosts", reason="malformed"), True),
        (Wanted(stage="vms"), False),
        (Wanted(reason="poison"), False),
        (Wanted(host="00010203-04"), True),
        (Wanted(host="1111"), False),
        (Wanted(vm="0001"), False),
        (Wanted(since=NOW - timedelta(minutes=10)), True),
        (Wanted(since=NOW - timedelta(minutes=1)), False),
    ],
)
def test_filters(wanted: Wanted, fits: bool) -> None:
    assert wanted.fits(letter()) is fits


def test_times_and_places_are_read_or_refused() -> None:
    assert since("15m", NOW) == NOW - timedelta(minutes=15)
    assert since("2d", NOW) == NOW - timedelta(days=2)
    assert since("2026-04-30T10:00", NOW) == datetime(2026, 4, 30, 10, tzinfo=UTC)
    assert Place.parse("2@17") == Place(2, 17)
    for call in (lambda: since("soon", NOW), lambda: Place.parse("17"), lambda: Place.parse("-1@2")):
        with pytest.raises(ConfigError):
            call()


def test_nothing_a_terminal_would_obey_is_shown() -> None:
    hostile = "\x1b]0;owned\x07\u202egnp.exe\x9b31m\r\n<script>"
    assert printable(hostile).isprintable()
    assert printable(hostile) == "\\x1b]0;owned\\x07\\u202egnp.exe\\x9b31m\\r\\n<script>"
    request = ResyncRequest(request_id=RequestId(bytes(16)), host_id=HOST, force=True, asker=Asker.VMS, reason=hostile)
    shown = content(letter(value=encode(request), schema=header_of(ResyncRequest)))
    assert shown.isprintable()
    assert '"force":true' in shown


@pytest.mark.parametrize("value", [b"", b"\xc1", b"\x81" * 3_000, b"\xdd\xff\xff\xff\xff", bytes(4_000_000)])
@pytest.mark.parametrize("schema", [None, b"HostReport/1.0", b"Tick/9.9", b"\xff\x1b[2J"])
def test_whatever_a_letter_holds_it_can_be_shown(value: bytes, schema: bytes | None) -> None:
    shown = content(letter(value=value, schema=schema))
    assert shown.isprintable()
    assert len(shown) < 3 * SHOWN_BYTES + 1_000


def test_letters_of_the_state_stages_ask_the_host() -> None:
    assert means_of(letter(), is_retried=False, again=False) is Means.SNAPSHOT
    assert means_of(letter(topic="vm.observations", vm="x"), is_retried=False, again=False) is Means.SNAPSHOT
    assert host_of(letter()) == HOST
    with pytest.raises(ConfigError, match="names no host"):
        means_of(letter(host=None), is_retried=False, again=False)


def test_letters_of_other_topics_are_produced_again_or_refused() -> None:
    assert means_of(letter(topic="vm.stats"), is_retried=False, again=False) is Means.PRODUCED
    with pytest.raises(ConfigError, match="only the beginning"):
        means_of(letter(topic="vm.stats", size=9), is_retried=False, again=False)
    with pytest.raises(ConfigError, match="nobody but its stage"):
        means_of(letter(topic="vm.changes"), is_retried=False, again=False)


def test_a_letter_is_tried_again_once() -> None:
    with pytest.raises(ConfigError, match="before"):
        means_of(letter(), is_retried=True, again=False)
    assert means_of(letter(), is_retried=True, again=True) is Means.SNAPSHOT


def test_a_long_original_is_cut_and_says_so() -> None:
    assert letter_value(b"x") == (b"x", None)
    value, size = letter_value(bytes(LETTER_LIMIT_BYTES + 5))
    assert (len(value), size) == (LETTER_LIMIT_BYTES, LETTER_LIMIT_BYTES + 5)
