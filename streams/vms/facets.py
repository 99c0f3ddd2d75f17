"""A VM's facets as the stage keeps them: normalised, packed into one bytes object each, compared by fingerprint.

Packed: the claim's mark of it as it stands in the head (`FacetMark`, encoded: 8 bytes of the raw fingerprint, what the
host sent; 16 of the normalised one, what decides change; whether it was rejected), then the canonical facet map. A
million VMs have several million of these, so they are no objects; and a head is put together from slices of them.
"""

from operator import itemgetter
from typing import Any, Final, NamedTuple

import msgspec
import xxhash
from msgspec.structs import astuple

from schemas.change import CLEARED, FacetChange
from schemas.facets import FACET_LIMIT_BYTES, VM_FACETS, Facet
from schemas.facets.normal import normalised
from schemas.ids import VmId
from streams.vms.twins import twin_of

FACETS: Final[tuple[Facet, ...]] = (
    Facet.IDENTITY,
    Facet.RUN,
    Facet.GUEST,
    Facet.CONSOLE,
    Facet.DEVICES,
    Facet.JOBS,
    Facet.NUMA,
    Facet.WATCHDOG,
)
"""By slot. Only ever appended to."""
NAMES: Final = tuple(facet.value for facet in FACETS)
SLOT_OF: Final = {facet.value: slot for slot, facet in enumerate(FACETS)}
RUN: Final = SLOT_OF[Facet.RUN]
IDENTITY: Final = SLOT_OF[Facet.IDENTITY]
GUEST: Final = SLOT_OF[Facet.GUEST]

PackedFacets = tuple[bytes | None, ...]
NO_RAW: Final = bytes(8)
"""Mark of a facet that counts in no sum."""
NO_FACETS: Final[PackedFacets] = (None,) * len(FACETS)

_CLEARED_AT_END: Final = {SLOT_OF[name] for name in (Facet.GUEST, Facet.CONSOLE, Facet.JOBS, Facet.NUMA)}
_KEPT_WHEN_GONE: Final = {SLOT_OF[name] for name in (Facet.IDENTITY, Facet.DEVICES)}

_SLOTS: Final = range(len(FACETS))
_MARK_BEGINS: Final = b"\x93\xcf"
_RAW: Final = slice(2, 10)
_NORMAL_BEGINS: Final = b"\xc4\x10"
_PRINT: Final = slice(10, 28)
"""The normalised fingerprint with what MessagePack puts before it."""
_NORMAL: Final = slice(12, 28)
_FLAG_AT: Final = 28
_ACCEPTED: Final = b"\xc2"
_REJECTED: Final = b"\xc3"
_VALUE_AT: Final = 29
_NO_NORMAL: Final = bytes(16)

_MAP_OF: Final = tuple(bytes((0x80 + length,)) for length in range(len(FACETS) + 1))
_ARRAY_OF: Final = tuple(bytes((0x90 + length,)) for length in range(len(FACETS) + 1))
_PAIR: Final = _ARRAY_OF[2]
_ENCODED_NAMES: Final = tuple(msgspec.msgpack.encode(name) for name in NAMES)
_in_order_of_names: Final = itemgetter(*sorted(_SLOTS, key=NAMES.__getitem__))
_ENDED_NAMES: Final = tuple(name.encode("ascii") + b"\0" for name in NAMES)

_decode = [msgspec.msgpack.Decoder(VM_FACETS[facet]).decode for facet in FACETS]
_FIELDS: Final = [VM_FACETS[facet].__struct_fields__ for facet in FACETS]
_FacetChange = twin_of(FacetChange)

Readings = dict[bytes, msgspec.Struct]
"""Facets that were decoded already, by their packed form."""


class MalformedFacet(ValueError):
    """These bytes are not this facet; the text says why."""


def raw_mark(vm_id: VmId, slot: int, data: bytes) -> bytes:
    """Low 64 bits of `schemas.fingerprints.raw_fingerprint`, which is what the host's digest sums."""
    return xxhash.xxh3_128_digest(vm_id + _ENDED_NAMES[slot] + data)[8:]


def read(slot: int, data: bytes) -> msgspec.Struct:
    """The facet in these bytes; raises MalformedFacet."""
    if len(data) > FACET_LIMIT_BYTES:
        raise MalformedFacet(f"{FACETS[slot]}: {len(data)} bytes, the limit is {FACET_LIMIT_BYTES}")
    try:
        facet: msgspec.Struct = _decode[slot](data)
    except (msgspec.DecodeError, RecursionError) as problem:
        raise MalformedFacet(f"{FACETS[slot]}: {problem}") from problem
    return facet


def pack(raw: bytes, facet: msgspec.Struct, readings: Readings | None = None) -> bytes:
    """A facet as it is kept; what it holds is noted in `readings`."""
    facet, normal, value = normalised(facet)
    packed = b"%b%b%b%b%b%b" % (_MARK_BEGINS, raw, _NORMAL_BEGINS, normal, _ACCEPTED, value)
    if readings is not None:
        readings[packed] = facet
    return packed


def pack_stored(raw: int, normal: bytes, *, rejected: bool, value: bytes) -> bytes:
    """The same from a claim's mark and a facet row; `normal` empty when the host never sent a readable one."""
    flag = _REJECTED if rejected else _ACCEPTED
    known = normal or _NO_NORMAL
    return b"%b%b%b%b%b%b" % (_MARK_BEGINS, raw.to_bytes(8, "big"), _NORMAL_BEGINS, known, flag, value)


def with_raw(raw: bytes, packed: bytes) -> bytes:
    """The same facet, last sent in other bytes."""
    return b"%b%b%b%b%b" % (_MARK_BEGINS, raw, packed[_PRINT], _ACCEPTED, packed[_VALUE_AT:])


def rejected(raw: bytes, packed: bytes | None) -> bytes:
    """Bytes that could not be read are remembered; the last value that could stays (A5)."""
    normal = packed[_NORMAL] if packed else _NO_NORMAL
    value = packed[_VALUE_AT:] if packed else b""
    return b"%b%b%b%b%b%b" % (_MARK_BEGINS, raw, _NORMAL_BEGINS, normal, _REJECTED, value)


def is_rejected(packed: bytes) -> bool:
    return packed[_FLAG_AT] == _REJECTED[0]


def raw_of(packed: bytes) -> bytes:
    """The 8 bytes of `raw_mark`."""
    return packed[_RAW]


def normal_of(packed: bytes) -> bytes:
    """Normalised fingerprint; empty when there is no value."""
    return packed[_NORMAL] if len(packed) > _VALUE_AT else b""


def value_of(packed: bytes) -> bytes:
    """The canonical facet map; empty when the host never sent a readable one."""
    return packed[_VALUE_AT:]


def reading(slot: int, packed: bytes | None, readings: Readings) -> msgspec.Struct | None:
    """The facet that is kept; None when there is no value. Raises MalformedFacet."""
    if packed is None or len(packed) <= _VALUE_AT:
        return None
    known = readings.get(packed)
    if known is None:
        known = readings[packed] = read(slot, packed[_VALUE_AT:])
    return known


def same(one: bytes | None, other: bytes | None) -> bool:
    """Equal normal forms: no change. This, and nothing else, decides."""
    return (one[_NORMAL] if one else _NO_NORMAL) == (other[_NORMAL] if other else _NO_NORMAL)


def after_end(facets: PackedFacets) -> PackedFacets:
    """What a VM shows when its run is over (D5)."""
    return tuple(None if slot in _CLEARED_AT_END else packed for slot, packed in enumerate(facets))


def when_gone(facets: PackedFacets) -> PackedFacets:
    """What is kept of an ended owner's claim until the next owner."""
    return tuple(packed if slot in _KEPT_WHEN_GONE else None for slot, packed in enumerate(facets))


def marks(facets: PackedFacets) -> msgspec.Raw | dict[str, Any]:
    """What a claim's row remembers: name -> FacetMark. Nine bytes for every raw fingerprint, also a small one."""
    parts = [
        name + (packed[:_VALUE_AT] if len(packed) > _VALUE_AT else _mark_without_value(packed))
        for name, packed in zip(_ENCODED_NAMES, facets, strict=True)
        if packed is not None
    ]
    return msgspec.Raw(_MAP_OF[len(parts)] + b"".join(parts)) if parts else {}


def _mark_without_value(packed: bytes) -> bytes:
    return b"%b%b\xc4\0%b" % (_MARK_BEGINS, packed[_RAW], packed[_FLAG_AT:_VALUE_AT])


class Prints(NamedTuple):
    """Names and normalised fingerprints of the facets that have a value, in the two forms in which they are told."""

    by_slot: msgspec.Raw | dict[str, Any]
    """A map, as in the head."""
    by_name: msgspec.Raw
    """Pairs in the order of the names, as in the digest."""


def prints_of(facets: PackedFacets) -> Prints:
    """Of a VM's own facets."""
    told = [
        b"" if packed is None or len(packed) <= _VALUE_AT else name + packed[_PRINT]
        for name, packed in zip(_ENCODED_NAMES, facets, strict=True)
    ]
    sorted_by_name = list(filter(None, _in_order_of_names(told)))
    count = len(sorted_by_name)
    by_name = _PAIR.join((_ARRAY_OF[count], *sorted_by_name))
    by_slot = _MAP_OF[count] + b"".join(told)
    return Prints(msgspec.Raw(by_slot) if count else {}, msgspec.Raw(by_name))


def differences(before: PackedFacets, after: PackedFacets, readings: Readings) -> dict[str, Any]:
    """The facets that differ, by name, as a change shows them: twins of FacetChange."""
    if before is after:
        return {}
    return {
        NAMES[slot]: _difference(slot, old, new, readings)
        for slot, old, new in zip(_SLOTS, before, after, strict=True)
        if old is not new and not same(old, new)
    }


def _difference(slot: int, old: bytes | None, new: bytes | None, readings: Readings) -> Any:
    change = _FacetChange()
    left = reading(slot, old, readings)
    right = reading(slot, new, readings)
    if new is None or right is None:
        change.before = _set_fields(left)
        change.after = CLEARED
        change.changed = list(change.before)
        return change
    change.after = msgspec.Raw(new[_VALUE_AT:])
    if left is None:
        change.before = None
        change.changed = list(_set_fields(right))
        return change
    change.before = {
        name: was
        for name, was, now in zip(_FIELDS[slot], astuple(left), astuple(right), strict=True)
        if was is not now and was != now
    }
    change.changed = list(change.before)
    return change


def _set_fields(facet: msgspec.Struct | None) -> dict[str, Any]:
    """Fields that do not have their default value: those that the encoded map shows."""
    if facet is None:
        return {}
    decoded: dict[str, Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(facet))
    return {name: getattr(facet, name) for name in facet.__struct_fields__ if name in decoded}
