"""Binary values: psycopg's own adaptation is the oracle, for single values, arrays and COPY rows alike."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.json import Jsonb
from psycopg.types.numeric import Int8

from sinks.postgres.binary import (
    NULL,
    POSTGRES_EPOCH_MICROSECONDS,
    array_of,
    bool_field,
    int4_field,
    int8_field,
    json_field,
    micros,
    numbers,
    signed,
    text_field,
    time_field,
    times,
    uuid_field,
    uuid_raw,
    uuids,
    words_field,
    words_literal_field,
)
from sinks.postgres.columns import Kind

IDS = ["4a146cf0-d98a-98e1-cf99-9661f967bdaf", "00000000-0000-0000-0000-000000000000"]
NS = 1_795_300_000_123_456_000
TEXTS = ["", "plain", "ümläut 🙂", 'quote " and \\ and {}', "tab\tnew\nline", "x" * 10_000]


def by_psycopg(value: Any) -> bytes:
    dumped = Transformer().get_dumper(value, PyFormat.BINARY).dump(value)
    assert dumped is not None
    return bytes(dumped)


def field(value: Any) -> bytes:
    data = by_psycopg(value)
    return len(data).to_bytes(4, "big") + data


@pytest.mark.parametrize("text", TEXTS)
def test_text(text: str) -> None:
    assert text_field(text) == field(text)


def test_text_without_nul() -> None:
    assert text_field("a\0b") == text_field("ab")


@pytest.mark.parametrize("text", IDS)
def test_uuid(text: str) -> None:
    assert uuid_field(text) == field(UUID(text))
    assert uuid_raw(text.replace("-", "")) == UUID(text).bytes


@pytest.mark.parametrize("text", ["", "x" * 36, "4a146cf0-d98a-98e1-cf99-9661f967bda", "4a146cf0" * 5])
def test_what_is_no_uuid(text: str) -> None:
    with pytest.raises(ValueError, match=r"UUID|hexadecimal"):
        uuid_field(text)


@pytest.mark.parametrize("number", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_int8(number: int) -> None:
    assert int8_field(number) == field(Int8(number))


def test_time() -> None:
    moment = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=NS // 1000)
    assert time_field(NS) == field(moment)
    assert micros(0) == -POSTGRES_EPOCH_MICROSECONDS


def test_bool() -> None:
    assert [bool_field(True), bool_field(False)] == [field(True), field(False)]


def test_null_is_a_negative_length() -> None:
    encoders: list[Callable[[None], bytes]] = [
        text_field,
        uuid_field,
        int8_field,
        int4_field,
        bool_field,
        time_field,
        json_field,
    ]
    assert {encode(None) for encode in encoders} == {NULL}


def test_json() -> None:
    assert json_field(b'{"a": [1, null]}') == field(Jsonb({"a": [1, None]}))


def test_json_drops_nul_escapes_and_keeps_what_only_looks_like_one() -> None:
    assert json_field(rb'{"a\u0000":"b\u0000c"}') == json_field(b'{"a":"bc"}')
    assert json_field(rb'{"a":"\\u0000"}') == json_field(rb'{"a":"\\u0000"}')
    assert rb"\\u0000" in json_field(rb'{"a":"\\u0000"}')


@pytest.mark.parametrize("words", [["one"], ["one", "two"], TEXTS])
def test_words(words: list[str]) -> None:
    assert words_field(words) == field(words)


def test_words_as_literal() -> None:
    assert words_literal_field(["a", 'b"\\']) == text_field('{"a","b\\"\\\\"}')
    assert words_literal_field([]) == text_field("{}")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (numbers(Kind.INT8, [5, -7, 2**62]), [Int8(5), Int8(-7), Int8(2**62)]),
        (numbers(Kind.BOOL, [True, False]), [True, False]),
        (uuids(IDS), [UUID(text) for text in IDS]),
        (times([NS, NS]), [datetime.fromtimestamp(0, UTC) + timedelta(microseconds=NS // 1000)] * 2),
    ],
    ids=["int8", "bool", "uuid", "timestamptz"],
)
def test_arrays(ours: Any, theirs: list[Any]) -> None:
    assert ours.data == by_psycopg(theirs)


def test_array_with_null() -> None:
    assert array_of(Kind.TEXT, [text_field("a"), NULL]).data == by_psycopg(["a", None])


@pytest.mark.parametrize("values", [[2**63], [-(2**63) - 1]])
def test_a_number_that_does_not_fit(values: list[int]) -> None:
    with pytest.raises(OverflowError):
        numbers(Kind.INT8, values)


def test_one_bad_uuid_in_a_column() -> None:
    with pytest.raises(ValueError, match="UUID"):
        uuids([IDS[0], "12"])


@pytest.mark.parametrize("number", [0, 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_digests_keep_their_bits(number: int) -> None:
    assert signed(number) % (1 << 64) == number
    assert -(1 << 63) <= signed(number) < 1 << 63
