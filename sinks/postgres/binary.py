"""Values in PostgreSQL's binary format, packed by hand: what a batch costs the client is mostly this.

A value is called a *field* when it stands with its 4-byte length before it; fields look the same inside an array and
inside a COPY row, so one set of functions serves both. Length and type must match the column exactly: a wrong one is
SQLSTATE 22P03, always a mistake here and never the record's.

Text can not hold NUL in PostgreSQL. It is dropped here, as the normal form of a facet drops it (rule D6).
"""

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Final
from uuid import UUID

import msgspec
import numpy as np

from sinks.postgres.columns import Kind

NULL: Final = b"\xff\xff\xff\xff"

POSTGRES_EPOCH_MICROSECONDS: Final = 946_684_800_000_000
"""2000-01-01 UTC: timestamptz counts from there."""

COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_TRAILER: Final = b"\xff\xff"

_length = Struct(">i").pack
_int8_field = Struct(">iq").pack
_int4_field = Struct(">ii").pack
_array_head = Struct(">iiiii").pack

TRUE_FIELD: Final = b"\0\0\0\1\1"
FALSE_FIELD: Final = b"\0\0\0\1\0"

ELEMENT_OIDS: dict[Kind, int] = {
    Kind.UUID: 2950,
    Kind.TEXT: 25,
    Kind.WORDS: 25,
    Kind.INT8: 20,
    Kind.INT4: 23,
    Kind.INT2: 21,
    Kind.BOOL: 16,
    Kind.TIME: 1184,
    Kind.JSON: 3802,
}
ARRAY_OIDS: dict[Kind, int] = {
    Kind.UUID: 2951,
    Kind.TEXT: 1009,
    Kind.WORDS: 1009,
    Kind.INT8: 1016,
    Kind.INT4: 1007,
    Kind.INT2: 1005,
    Kind.BOOL: 1000,
    Kind.TIME: 1185,
    Kind.JSON: 3807,
}


class Array(msgspec.Struct, frozen=True, gc=False):
    """A whole array parameter, ready to be sent as `kind[]`."""

    kind: Kind
    data: bytes


def micros(nanoseconds: int) -> int:
    """A time of ours as timestamptz counts it; our times are whole microseconds, the rest is cut."""
    return nanoseconds // 1000 - POSTGRES_EPOCH_MICROSECONDS


def signed(number: int) -> int:
    """An unsigned 64-bit number as the signed one of the same bits."""
    return number - (1 << 64) if number >> 63 else number


def text_field(text: str | None) -> bytes:
    """Field of a text."""
    if text is None:
        return NULL
    data = text.encode()
    if b"\0" in data:
        data = data.replace(b"\0", b"")
    return _length(len(data)) + data


def uuid_field(text: str | None) -> bytes:
    """Field of a uuid given as text; raises ValueError when it is none."""
    return NULL if text is None else b"\0\0\0\x10" + uuid_raw(text)


def uuid_raw(text: str) -> bytes:
    """16 bytes of a uuid's text; raises ValueError when it is none."""
    raw = bytes.fromhex(text.replace("-", "")) if len(text) == 36 else UUID(text).bytes
    if len(raw) != 16:
        raise ValueError(f"{text[:40]!r} is not a UUID")
    return raw


def int8_field(number: int | None) -> bytes:
    """Field of a bigint; raises struct.error beyond 64 bits."""
    return NULL if number is None else _int8_field(8, number)


def int4_field(number: int | None) -> bytes:
    """Field of an integer; raises struct.error beyond 32 bits."""
    return NULL if number is None else _int4_field(4, number)


def bool_field(value: bool | None) -> bytes:
    """Field of a boolean."""
    return NULL if value is None else TRUE_FIELD if value else FALSE_FIELD


def time_field(nanoseconds: int | None) -> bytes:
    """Field of a timestamptz, from int64 UTC ns."""
    return NULL if nanoseconds is None else _int8_field(8, micros(nanoseconds))


def json_field(encoded: bytes | None) -> bytes:
    """Field of a jsonb, from JSON text; a NUL escape in it, which jsonb refuses, is dropped."""
    if encoded is None:
        return NULL
    if b"\\u0000" in encoded:
        encoded = msgspec.json.encode(_without_nul(msgspec.json.decode(encoded)))
    return _length(len(encoded) + 1) + b"\1" + encoded


def words_field(words: Sequence[str]) -> bytes:
    """Field of a text[] as COPY takes it."""
    if not words:
        data = _array_head(0, 0, ELEMENT_OIDS[Kind.TEXT], 0, 0)[:12]
    else:
        data = _array_head(1, 0, ELEMENT_OIDS[Kind.TEXT], len(words), 1) + b"".join(map(text_field, words))
    return _length(len(data)) + data


def words_literal_field(words: Sequence[str]) -> bytes:
    """Field of a text that casts to the same text[], for use in `unnest`."""
    quoted = (word.replace("\\", "\\\\").replace('"', '\\"') for word in words)
    return text_field("{" + ",".join(f'"{word}"' for word in quoted) + "}")


def array_of(kind: Kind, fields: Sequence[bytes]) -> Array:
    """Array of fields made by the functions above."""
    if not fields:
        return Array(kind, _array_head(0, 0, ELEMENT_OIDS[kind], 0, 0)[:12])
    return Array(kind, _array_head(1, 1, ELEMENT_OIDS[kind], len(fields), 1) + b"".join(fields))


_INT_ARRAYS: dict[Kind, tuple[int, np.dtype[np.void]]] = {
    Kind.INT8: (8, np.dtype([("length", ">i4"), ("value", ">i8")])),
    Kind.INT4: (4, np.dtype([("length", ">i4"), ("value", ">i4")])),
    Kind.BOOL: (1, np.dtype([("length", ">i4"), ("value", "u1")])),
}
_UUID_ELEMENT = np.dtype([("length", ">i4"), ("value", "V16")])


def numbers(kind: Kind, values: Sequence[int]) -> Array:
    """Array of INT8, INT4 or BOOL without NULLs; raises OverflowError when one does not fit."""
    size, element = _INT_ARRAYS[kind]
    packed = np.empty(len(values), element)
    packed["length"] = size
    packed["value"] = values
    return _packed(kind, packed)


def times(nanoseconds: Sequence[int]) -> Array:
    """Array of timestamptz without NULLs."""
    packed = np.empty(len(nanoseconds), _INT_ARRAYS[Kind.INT8][1])
    packed["length"] = 8
    packed["value"] = np.array(nanoseconds, np.int64) // 1000 - POSTGRES_EPOCH_MICROSECONDS
    return _packed(Kind.TIME, packed)


def uuids(texts: Sequence[str]) -> Array:
    """Array of uuid without NULLs, from canonical texts; raises ValueError when one is none."""
    raw = bytes.fromhex("".join(texts).replace("-", ""))
    if len(raw) != 16 * len(texts):
        raise ValueError("a text in the batch is not a UUID")
    packed = np.empty(len(texts), _UUID_ELEMENT)
    packed["length"] = 16
    packed["value"] = np.frombuffer(raw, "V16")
    return _packed(Kind.UUID, packed)


def copy_data(rows: Iterable[bytes]) -> bytes:
    """A whole binary COPY stream; each row brings its own column count."""
    return b"".join((COPY_HEADER, *rows, COPY_TRAILER))


def _packed(kind: Kind, packed: np.ndarray[tuple[int], np.dtype[np.void]]) -> Array:
    if len(packed) == 0:
        return array_of(kind, ())
    return Array(kind, _array_head(1, 0, ELEMENT_OIDS[kind], len(packed), 1) + packed.tobytes())


def _without_nul(value: object) -> object:
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, list):
        return [_without_nul(item) for item in value]
    if isinstance(value, dict):
        return {_without_nul(key): _without_nul(item) for key, item in value.items()}
    return value
