"""Records as plain maps: decoded with `msgpack` alone, ids as bytes or text, and the partition of a key.

Nothing here knows the project's types: the layouts are those of docs/schemas.
"""

from __future__ import annotations

from typing import Any

import msgpack
import xxhash

U64 = (1 << 64) - 1
REPORT_LIMIT_BYTES = 1 << 20


class Unreadable(ValueError):
    """These bytes are not what they should be; the text says why."""


def unpack(data: bytes) -> Any:
    """The one value in these bytes; raises Unreadable."""
    try:
        return msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, msgpack.UnpackException, RecursionError, TypeError) as problem:
        raise Unreadable(str(problem) or type(problem).__name__) from problem


def unpack_map(data: bytes) -> dict[str, Any]:
    """The map in these bytes; raises Unreadable."""
    found = unpack(data)
    if not isinstance(found, dict):
        raise Unreadable(f"a map was expected, this is a {type(found).__name__}")
    return found


def text_of(raw: bytes) -> str:
    """UUID text of 16 bytes."""
    digits = raw.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def raw_of(text: str) -> bytes:
    """The 16 bytes of a UUID text; raises ValueError."""
    raw = bytes.fromhex(text.replace("-", ""))
    if len(raw) != 16:
        raise ValueError(f"{text!r} is no id")
    return raw


def hash64(data: bytes) -> int:
    """64 bits that stand for these bytes in comparisons."""
    return xxhash.xxh3_64_intdigest(data)


def partition_of(key: bytes, partitions: int) -> int:
    """Kafka's partition of a key: murmur2 as the Java client computes it, positive, modulo."""
    mask, factor = 0xFFFFFFFF, 0x5BD1E995
    state = (0x9747B28C ^ len(key)) & mask
    whole = len(key) // 4 * 4
    for start in range(0, whole, 4):
        part = (int.from_bytes(key[start : start + 4], "little") * factor) & mask
        part = ((part ^ (part >> 24)) * factor) & mask
        state = ((state * factor) & mask) ^ part
    if whole < len(key):
        state = ((state ^ int.from_bytes(key[whole:], "little")) * factor) & mask
    state = ((state ^ (state >> 13)) * factor) & mask
    return ((state ^ (state >> 15)) & 0x7FFFFFFF) % partitions
