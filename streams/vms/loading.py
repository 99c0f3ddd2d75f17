"""A partition's core from the log of vm.state (`streams.runtime.stage.PartitionLoader`).

Rows are ordered by (incarnation, version, applied), not by their place in the log: a dead owner may have written late.
A torn batch leaves facet rows above their head; they are held back, the older value stands, and the inputs come again.
"""

from collections.abc import Mapping
from struct import Struct
from typing import ClassVar, NamedTuple

from schemas.codec import NewerMajorError, Record, RecordError, SchemaVersion, decode, header_of
from schemas.ids import HostId, VmId
from schemas.vm_state import Claim as ClaimRow
from schemas.vm_state import VmFacet, VmHead
from streams.runtime.stage import PARTITION_KEY
from streams.vms.core import VmsCore
from streams.vms.facets import NO_FACETS, SLOT_OF, pack_stored
from streams.vms.letters import VM_OBSERVATIONS, ask
from streams.vms.policy import RULES_VERSION
from streams.vms.rows import (
    GENERATION_BITS,
    HOST_PREFIX,
    VmsHostRow,
    VmsPartitionRow,
    claim_of_row,
    host_of_row,
    restore_clock,
    vm_of_row,
)
from streams.vms.state import Partition, Vm

_HEAD_SCHEMA = header_of(VmHead)
_ORDER = Struct(">QQQ")
"""(incarnation, version, applied) as bytes that compare as the numbers do."""
_FINGERPRINT_AT = _ORDER.size
_FACET_AT = _ORDER.size + 16

_Stored = bytes
"""A facet row as read: order, fingerprint, value in one object; a loading process holds millions of them."""


class _StoredHead(NamedTuple):
    """A head as read, not decoded before it is known which one counts."""

    packed: bytes
    """Order, then the row."""
    schema: bytes | None

    @property
    def order(self) -> bytes:
        return self.packed[:_FINGERPRINT_AT]


class _Ordered(Record, frozen=True, kw_only=True):
    """What orders the versions of a head; the rest is read when it is known which one counts."""

    SCHEMA: ClassVar[SchemaVersion] = VmHead.SCHEMA

    incarnation: int
    version: int
    applied: int = 0


class VmsLoader:
    """Takes rows in log order, then builds the core."""

    def __init__(self, partition: int, partitions: int, topic_ids: Mapping[str, str]) -> None:
        self._state = Partition(partition, partitions)
        self._state.topic_id = topic_ids.get(VM_OBSERVATIONS, "")
        self._heads: dict[bytes, _StoredHead] = {}
        self._facets: dict[bytes, _Stored | tuple[_Stored, ...]] = {}
        self._hosts: dict[bytes, VmsHostRow] = {}
        self._partition: VmsPartitionRow | None = None
        self._ids: dict[str, bytes] = {}
        """Of hosts and boots: a million claims share a few thousand."""

    def add(self, key: bytes, value: bytes | None, schema: bytes | None) -> None:
        """Take one row; a deleted key is forgotten."""
        if key.startswith(b"#"):
            self._add_bookkeeping(key, value, schema)
        elif b"/" in key:
            self._add_facet(key, value, schema)
        else:
            self._add_head(key, value, schema)

    def _add_head(self, key: bytes, value: bytes | None, schema: bytes | None) -> None:
        if value is None:
            self._heads.pop(key, None)
            return
        found = decode(_Ordered, value, schema)
        order = _ORDER.pack(found.incarnation, found.version, found.applied)
        known = self._heads.get(key)
        if known is None or order >= known.order:
            self._heads[key] = _StoredHead(order + value, _HEAD_SCHEMA if schema == _HEAD_SCHEMA else schema)

    def _add_facet(self, key: bytes, value: bytes | None, schema: bytes | None) -> None:
        if value is None:
            self._facets.pop(_packed_key(key), None)
            return
        facet = decode(VmFacet, value, schema)
        order = _ORDER.pack(facet.incarnation, facet.version, facet.applied)
        place = _packed_key(key)
        earlier = self._needed(place, key[:36])
        stored = order + facet.fingerprint + facet.value
        self._facets[place] = (*earlier, stored) if earlier else stored

    def _needed(self, place: bytes, head_key: bytes) -> tuple[_Stored, ...]:
        """Earlier rows of this facet that a head may still name: the newest below the head, and all above it."""
        known = _as_tuple(self._facets.get(place))
        head = self._heads.get(head_key)
        if not known or head is None:
            return known
        highest = head.order
        below = max((one for one in known if one[:_FINGERPRINT_AT] <= highest), default=None)
        held = tuple(one for one in known if one[:_FINGERPRINT_AT] > highest)
        return held if below is None else (below, *held)

    def _add_bookkeeping(self, key: bytes, value: bytes | None, schema: bytes | None) -> None:
        if key == PARTITION_KEY and value is not None:
            row = decode(VmsPartitionRow, value, schema)
            known = self._partition
            if known is None or (row.generation, row.applied) >= (known.generation, known.applied):
                self._partition = row
        elif key.startswith(HOST_PREFIX):
            if value is None:
                self._hosts.pop(key, None)
                return
            host = decode(VmsHostRow, value, schema)
            if key not in self._hosts or host.applied >= self._hosts[key].applied:
                self._hosts[key] = host

    def finish(self) -> VmsCore:
        """The core as the log leaves it; raises NewerMajorError for rows of newer rules, RecordError for wrong ones."""
        state = self._state
        self._restore_partition()
        for row in self._hosts.values():
            host = host_of_row(row)
            state.hosts[host.id] = host
            state.floor = max(state.floor, host.applied)
            if host.late:
                state.late_hosts.add(host.id)
        lost: set[HostId] = set()
        while self._heads:
            _, stored = self._heads.popitem()
            lost |= self._restore_vm(decode(VmHead, stored.packed[_FINGERPRINT_AT:], stored.schema), stored.order)
        for place in map(_facet_place, self._facets):
            if place is not None:
                state.deletable_facets[place] = None
        for host_id in sorted(lost):
            ask(state, host_id, "lost_facet", f"lost:{state.generation}:{state.applied}")
        self._facets = {}
        return VmsCore(state)

    def _restore_partition(self) -> None:
        row, state = self._partition, self._state
        if row is None:
            return
        if row.rules_version > RULES_VERSION:
            raise NewerMajorError(
                f"vm.state[{state.number}] was written by rules {row.rules_version}, this program knows {RULES_VERSION}"
            )
        try:
            restore_clock(state.clock, row)
        except ValueError as problem:
            raise RecordError(f"vm.state[{state.number}]: {problem}") from problem
        same_log = not state.topic_id or row.topic_id in ("", state.topic_id)
        state.generation = row.generation if same_log else row.generation + 1
        state.applied = row.applied if same_log else -1
        state.floor = (row.generation << GENERATION_BITS) + row.applied

    def _restore_vm(self, head: VmHead, order: bytes) -> set[HostId]:
        """Put a VM into the tables; gives the hosts of whose claims a facet is missing."""
        vm = vm_of_row(head, self._ids)
        self._state.vms[vm.id] = vm
        lost = set()
        for row in head.claims:
            if self._restore_claim(vm, row, head.vm_id, order):
                lost.add(vm.claims[-1].host)
        for timer in vm.timers:
            self._state.timers.push(vm.id, timer)
        return lost

    def _restore_claim(self, vm: Vm, row: ClaimRow, vm_text: str, order: bytes) -> bool:
        claim = claim_of_row(row, self._ids)
        facets = list(NO_FACETS)
        missing = False
        for name, mark in row.facets.items():
            slot = SLOT_OF.get(name)
            if slot is None:
                continue
            value = self._value(f"{vm_text}/{row.host_id}/{name}".encode(), mark.normal, order)
            missing = missing or (value is None and bool(mark.normal))
            if value is not None or not mark.normal:
                facets[slot] = pack_stored(mark.raw, mark.normal, rejected=mark.rejected, value=value or b"")
        claim.facets = tuple(facets)
        vm.claims.append(claim)
        host = self._state.hosts.get(claim.host)
        if host is not None and not claim.ended:
            host.claims.add(vm.id)
        return missing

    def _value(self, key: bytes, normal: bytes, order: bytes) -> bytes | None:
        """The stored value that this head lists: not above it, and with the fingerprint it names."""
        if not normal:
            return None
        stored = _as_tuple(self._facets.pop(_packed_key(key), None))
        return next(
            (
                one[_FACET_AT:]
                for one in reversed(stored)
                if one[:_FINGERPRINT_AT] <= order and one[_FINGERPRINT_AT:_FACET_AT] == normal
            ),
            None,
        )


def _as_tuple(stored: _Stored | tuple[_Stored, ...] | None) -> tuple[_Stored, ...]:
    if stored is None:
        return ()
    return (stored,) if isinstance(stored, bytes) else stored


def _packed_key(key: bytes) -> bytes:
    """33 bytes for `<vm_id>/<host_id>/<facet>`; a facet that this version does not know keeps its name."""
    ids = bytes.fromhex(key[:73].replace(b"-", b"").replace(b"/", b"").decode("ascii"))
    name = key[74:].decode("ascii")
    slot = SLOT_OF.get(name)
    return ids + (name.encode() if slot is None else bytes((slot,)))


def _facet_place(packed: bytes) -> tuple[VmId, HostId, int] | None:
    """The facet of a packed key that no head lists: its row is deleted with the next batch."""
    if len(packed) != 33:
        return None
    return VmId(packed[:16]), HostId(packed[16:32]), packed[32]
