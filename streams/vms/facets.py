"""A VM's facets as the stage keeps them: normalised, packed into one bytes object each, compared by fingerprint.

Packed: 8 bytes of the raw fingerprint (what the host sent), 16 of the normalised one (what decides change), 1 of
flags, then the canonical facet map. A million VMs have several million of these, so they are no objects.
"""

from typing import Any, Final

import msgspec
from msgspec.structs import astuple

from schemas.change import CLEARED, FacetChange
from schemas.facets import FACET_LIMIT_BYTES, VM_FACETS, Facet
from schemas.facets.normal import normal_form
from schemas.fingerprints import raw_fingerprint
from schemas.ids import VmId
from schemas.vm_state import FacetMark

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
NO_FACETS: Final[PackedFacets] = (None,) * len(FACETS)

_CLEARED_AT_END: Final = {SLOT_OF[name] for name in (Facet.GUEST, Facet.CONSOLE, Facet.JOBS, Facet.NUMA)}
_KEPT_WHEN_GONE: Final = {SLOT_OF[name] for name in (Facet.IDENTITY, Facet.DEVICES)}

_SLOTS: Final = range(len(FACETS))
_REJECTED: Final = 1
_FLAGS_AT: Final = 24
_VALUE_AT: Final = 25
_NO_VALUE: Final = bytes(16)

_decode = [msgspec.msgpack.Decoder(VM_FACETS[facet]).decode for facet in FACETS]


class MalformedFacet(ValueError):
    """These bytes are not this facet; the text says why."""


def raw_mark(vm_id: VmId, name: str, data: bytes) -> bytes:
    """Low 64 bits of the raw fingerprint, which is what the host's digest sums."""
    return raw_fingerprint(vm_id, name, data)[8:]


def read(slot: int, data: bytes) -> msgspec.Struct:
    """The facet in these bytes; raises MalformedFacet."""
    if len(data) > FACET_LIMIT_BYTES:
        raise MalformedFacet(f"{FACETS[slot]}: {len(data)} bytes, the limit is {FACET_LIMIT_BYTES}")
    try:
        facet: msgspec.Struct = _decode[slot](data)
    except (msgspec.DecodeError, RecursionError) as problem:
        raise MalformedFacet(f"{FACETS[slot]}: {problem}") from problem
    return facet


def pack(raw: bytes, facet: msgspec.Struct) -> bytes:
    """A facet as it is kept."""
    normal, value = normal_form(facet)
    return b"%b%b\0%b" % (raw, normal, value)


def pack_stored(raw: int, normal: bytes, *, rejected: bool, value: bytes) -> bytes:
    """The same from a claim's mark and a facet row; `normal` empty when the host never sent a readable one."""
    flags = b"\1" if rejected else b"\0"
    return b"%b%b%b%b" % (raw.to_bytes(8, "big"), normal or _NO_VALUE, flags, value)


def with_raw(raw: bytes, packed: bytes) -> bytes:
    """The same facet, last sent in other bytes."""
    return b"%b%b\0%b" % (raw, packed[8:_FLAGS_AT], packed[_VALUE_AT:])


def rejected(raw: bytes, packed: bytes | None) -> bytes:
    """Bytes that could not be read are remembered; the last value that could stays (A5)."""
    kept = packed[8:_FLAGS_AT] if packed else _NO_VALUE
    return b"%b%b\1%b" % (raw, kept, packed[_VALUE_AT:] if packed else b"")


def is_rejected(packed: bytes) -> bool:
    return packed[_FLAGS_AT] & _REJECTED != 0


def normal_of(packed: bytes) -> bytes:
    """Normalised fingerprint; empty when there is no value."""
    return packed[8:_FLAGS_AT] if len(packed) > _VALUE_AT else b""


def value_of(packed: bytes) -> bytes:
    """The canonical facet map; empty when the host never sent a readable one."""
    return packed[_VALUE_AT:]


def same(one: bytes | None, other: bytes | None) -> bool:
    """Equal normal forms: no change. This, and nothing else, decides."""
    if one is other:
        return True
    return (normal_of(one) if one else b"") == (normal_of(other) if other else b"")


def after_end(facets: PackedFacets) -> PackedFacets:
    """What a VM shows when its run is over (D5)."""
    return tuple(None if slot in _CLEARED_AT_END else packed for slot, packed in enumerate(facets))


def when_gone(facets: PackedFacets) -> PackedFacets:
    """What is kept of an ended owner's claim until the next owner."""
    return tuple(packed if slot in _KEPT_WHEN_GONE else None for slot, packed in enumerate(facets))


def marks(facets: PackedFacets) -> dict[str, FacetMark]:
    """Name -> what a claim's row remembers of the facet."""
    return {
        name: FacetMark(
            int.from_bytes(packed[:8], "big"),
            packed[8:_FLAGS_AT] if len(packed) > _VALUE_AT else b"",
            packed[_FLAGS_AT] & _REJECTED != 0,
        )
        for name, packed in zip(NAMES, facets, strict=True)
        if packed is not None
    }


def fingerprints(facets: PackedFacets) -> dict[str, bytes]:
    """Name -> normalised fingerprint of the facets that have a value."""
    return {
        name: packed[8:_FLAGS_AT]
        for name, packed in zip(NAMES, facets, strict=True)
        if packed is not None and len(packed) > _VALUE_AT
    }


def differences(before: PackedFacets, after: PackedFacets) -> dict[str, FacetChange]:
    """The facets that differ, by name, as a change shows them."""
    if before is after:
        return {}
    return {
        NAMES[slot]: _difference(slot, before[slot], after[slot])
        for slot in _SLOTS
        if before[slot] is not after[slot] and not same(before[slot], after[slot])
    }


def _difference(slot: int, old: bytes | None, new: bytes | None) -> FacetChange:
    left = _decode[slot](old[_VALUE_AT:]) if old and len(old) > _VALUE_AT else None
    if new is None or len(new) <= _VALUE_AT:
        return FacetChange(before=_set_fields(left), after=CLEARED, changed=list(_set_fields(left)))
    value = new[_VALUE_AT:]
    right = _decode[slot](value)
    if left is None:
        return FacetChange(before=None, after=msgspec.Raw(value), changed=list(_set_fields(right)))
    before = {
        name: was
        for name, was, now in zip(right.__struct_fields__, astuple(left), astuple(right), strict=True)
        if was is not now and was != now
    }
    return FacetChange(before=before, after=msgspec.Raw(value), changed=list(before))


def _set_fields(facet: msgspec.Struct | None) -> dict[str, Any]:
    """Fields that do not have their default value: those that the encoded map shows."""
    if facet is None:
        return {}
    decoded: dict[str, Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(facet))
    return {name: getattr(facet, name) for name in facet.__struct_fields__ if name in decoded}
