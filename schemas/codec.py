"""MessagePack bytes <-> typed records, with the version header and the guard of the trust boundary.

Every message carries the header `schema: <record>/<major>.<minor>`. A minor adds fields with defaults; a major is
another topic or a migration. On internal records unknown fields are an error when the writer's minor is ours or
lower (somebody wrote a field that this version does not have) and ignored above it; on public ones they are always
ignored. An internal record of a later minor that can not be read even so is not damaged: this process is too old.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, TypeVar, cast

import msgpack
import msgspec

SCHEMA_HEADER = "schema"

ENVELOPE_LIMIT_BYTES = 1024 * 1024
"""Largest message accepted at the trust boundary; an agent keeps its envelopes below half of it."""


class RecordError(ValueError):
    """These bytes are not a record of this type; the text names the record, the field and what is wrong."""


class NewerMajorError(RecordError):
    """Written by a version that this process can not read: another major, or an internal record of a later minor.

    It must not guess, it stops.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class SchemaVersion:
    """Name and version of a record, as they stand in the `schema` header."""

    record: str
    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.record}/{self.major}.{self.minor}"

    @classmethod
    def parse(cls, header: bytes | str) -> "SchemaVersion":
        """Read a header such as `VmChange/1.0`; raises RecordError."""
        text = header.decode("ascii", "replace") if isinstance(header, bytes) else header
        record, slash, version = text.partition("/")
        major, dot, minor = version.partition(".")
        if not (record and slash and dot and major.isdecimal() and minor.isdecimal()):
            raise RecordError(f"schema header {text[:80]!r} is not <record>/<major>.<minor>")
        return cls(record=record, major=int(major), minor=int(minor))


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of everything that travels; subclasses say their version and whether others may read them."""

    SCHEMA: ClassVar[SchemaVersion]
    PUBLIC: ClassVar[bool] = False


R = TypeVar("R", bound=Record)

_encoder = msgspec.msgpack.Encoder()


def encode(record: msgspec.Struct) -> bytes:
    """MessagePack bytes of a record; equal records give equal bytes."""
    return _encoder.encode(record)


@cache
def header_of(kind: type[Record]) -> bytes:
    """Value of the `schema` header for this record type."""
    return str(kind.SCHEMA).encode("ascii")


def schema_in(headers: Iterable[tuple[str, bytes]] | None) -> bytes | None:
    """Value of the `schema` header among the headers of a message; None when there is none."""
    for name, value in headers or ():
        if name == SCHEMA_HEADER:
            return value
    return None


@cache
def _decoder(kind: type[Record]) -> msgspec.msgpack.Decoder[Record]:
    return msgspec.msgpack.Decoder(kind)


def decode(kind: type[R], data: bytes, header: bytes | str | None) -> R:
    """Typed record of these bytes.

    Raises NewerMajorError for another major and for an internal record of a later minor that does not fit,
    RecordError for another record, a missing header or a bad field.
    """
    if header is None:
        raise RecordError(f"{kind.__name__}: the message has no `schema` header")
    later = header != header_of(kind) and _is_newer(kind, SchemaVersion.parse(header))
    later_internal = later and kind.__struct_config__.forbid_unknown_fields
    try:
        if not later_internal:
            return cast(R, _decoder(kind).decode(data))
        return msgspec.convert(_known_fields(kind, msgspec.msgpack.decode(data)), kind)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError) as problem:
        if later_internal:
            raise NewerMajorError(
                f"{kind.__name__} of a later minor, this process knows {kind.SCHEMA}: {problem}"
            ) from problem
        raise RecordError(f"{kind.__name__}: {problem}") from problem


def _known_fields(kind: type[Record], message: object) -> object:
    """What a later minor wrote, less the top-level fields that this version does not know."""
    names = kind.__struct_encode_fields__
    if isinstance(message, list):
        return message[: len(names)]
    if isinstance(message, dict):
        return {name: value for name, value in message.items() if name in names}
    return message


def _is_newer(kind: type[Record], found: SchemaVersion) -> bool:
    """True for a later minor of the same record; raises for another record or major."""
    ours = kind.SCHEMA
    if found.record != ours.record:
        raise RecordError(f"expected a {ours.record}, the header says {found.record}")
    if found.major != ours.major:
        raise NewerMajorError(f"{found} was written by another major version; this process knows {ours}")
    return found.minor > ours.minor


def guard(data: bytes, limit_bytes: int = ENVELOPE_LIMIT_BYTES) -> None:
    """Refuse bytes of an untrusted writer before anything is allocated for them.

    Walks the MessagePack structure without building it: a length that the bytes do not back, a trailing byte, an
    extension type's nesting or a size above the limit raises RecordError. What passes can not make the typed
    decoder allocate more than a small multiple of `limit_bytes`.
    """
    if len(data) > limit_bytes:
        raise RecordError(f"message of {len(data)} bytes is above the limit of {limit_bytes}")
    unpacker = msgpack.Unpacker(max_buffer_size=limit_bytes)
    unpacker.feed(data)
    try:
        unpacker.skip()
    except (msgpack.OutOfData, msgpack.StackError, msgpack.FormatError, ValueError) as problem:
        raise RecordError(f"not one whole MessagePack value: {problem or type(problem).__name__}") from problem
    if unpacker.tell() != len(data):
        raise RecordError(f"{len(data) - unpacker.tell()} bytes follow the record")
