"""Facets of the host itself and its storage claims: gate, decode, compare.

Their fingerprints count in the digest under an empty VM id. Host facets are few and small, so they are read here;
the bytes of storage claims are of no use yet and only their fingerprints stay.
"""

from functools import cache
from typing import Any

import msgspec

from schemas.change import FacetChange
from schemas.codec import encode
from schemas.facets import FACET_LIMIT_BYTES, HOST_FACETS, HostFacet
from schemas.facets.host import HostReachability
from schemas.facets.normal import fingerprint, normalise
from schemas.fingerprints import NO_VM, U64, low64, raw_fingerprint, storage_facet
from schemas.host_rows import HostFacetRow, HostRow
from schemas.observation import HostEvent
from schemas.ownership import Owner, fields_of
from streams.hosts.gate import Refused
from streams.hosts.state import Host
from streams.hosts.turn import Turn

MAX_MARKS = 1024
"""Host facets and storage claims remembered per host."""
MAX_NAME_CHARS = 160


def keep_only(row: HostRow, host: dict[str, bytes], storage: dict[str, bytes]) -> None:
    """A snapshot's first part names all host facets and claims: what it does not name counts no more."""
    named = host.keys() | {storage_facet(domain) for domain in storage}
    for name in row.marks.keys() - named:
        forget(row, name)


def forget(row: HostRow, name: str) -> None:
    """Take a name out of the digest; what was last read of a host facet stays."""
    mark = row.marks.pop(name, None)
    if mark is not None:
        row.digest = (row.digest - low64(mark)) & U64


def take_storage(row: HostRow, domain: str, data: bytes) -> Refused | None:
    """Remember a storage claim."""
    name = storage_facet(domain)
    if len(data) > FACET_LIMIT_BYTES:
        return Refused(None, name, data, "facet_too_large")
    return _mark(row, name, data)[1]


def take_facet(turn: Turn, name: str, data: bytes, *, force: bool) -> Refused | None:
    """Remember a host facet, and read it when it is new; returns what is wrong with it."""
    moved, refused = _mark(turn.row, name, data)
    if refused is not None or not (moved or force):
        return refused
    if name not in set(HostFacet):
        return Refused(None, name, data, "facet_unknown")
    if len(data) > FACET_LIMIT_BYTES:
        return Refused(None, name, data, "facet_too_large")
    try:
        facet = _decoder(HostFacet(name)).decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
        return Refused(None, name, data, "facet_malformed")
    _compare(turn, HostFacet(name), facet)
    return None


def _mark(row: HostRow, name: str, data: bytes) -> tuple[bool, Refused | None]:
    """Count the fingerprint; True when it is another than before."""
    if not name.isascii() or len(name) > MAX_NAME_CHARS:
        return False, Refused(None, name, data, "facet_unknown")
    old = row.marks.get(name)
    if old is None and len(row.marks) >= MAX_MARKS:
        return False, Refused(None, name, data, "too_many_facets")
    mark = raw_fingerprint(NO_VM, name, data)
    if mark == old:
        return False, None
    row.marks[name] = mark
    row.digest = (row.digest + low64(mark) - (0 if old is None else low64(old))) & U64
    return True, None


def _compare(turn: Turn, name: HostFacet, facet: msgspec.Struct) -> None:
    """Keep the facet; when its normal form is another one, that is a change."""
    row, normal = turn.row, fingerprint(facet)
    old = row.facets.get(name.value)
    after = normalise(facet)
    value = encode(after)
    row.facets[name.value] = HostFacetRow(value, normal)
    if isinstance(after, HostReachability):
        _reach_source(turn, after)
    if old is not None and old.normal == normal:
        return
    before = None if old is None else _decoder(name).decode(old.value)
    note_change(turn.host, name, before, after, value)


def note_change(
    host: Host, name: HostFacet, before: msgspec.Struct | None, after: msgspec.Struct, value: bytes
) -> None:
    """Add a facet's difference to what the turn publishes."""
    fields = reported_fields(name)
    if before is None:
        change = FacetChange(
            before=None,
            after=msgspec.Raw(value),
            changed=[field for field in fields if getattr(after, field) is not None],
        )
    else:
        changed = [field for field in fields if getattr(before, field) != getattr(after, field)]
        was: dict[str, Any] = {field: msgspec.to_builtins(getattr(before, field)) for field in changed}
        change = FacetChange(before=was, after=msgspec.Raw(value), changed=changed)
    host.facet_changes[name.value] = change


def _reach_source(turn: Turn, facet: HostReachability) -> None:
    """Follow whether the agent reaches its source (rule H6)."""
    row = turn.row
    if not facet.source_connected:
        if row.disconnected_tick is None:
            row.disconnected_tick = turn.moment.tick
        return
    row.disconnected_tick = None
    if row.degraded:
        row.degraded = False
        turn.say(HostEvent.RECOVERED)


@cache
def reported_fields(name: HostFacet) -> tuple[str, ...]:
    """Fields whose difference is a change."""
    owners = fields_of(HOST_FACETS[name])
    return tuple(field for field, owner in owners.items() if owner is Owner.REPORTED)


@cache
def _decoder(name: HostFacet) -> msgspec.msgpack.Decoder[msgspec.Struct]:
    return msgspec.msgpack.Decoder(HOST_FACETS[name])
