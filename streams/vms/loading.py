"""A partition's core from the log of vm.state (`streams.runtime.stage.PartitionLoader`).

Rows are ordered by (incarnation, version, applied), not by their place in the log: a dead owner may have written late.
A torn batch leaves facet rows above their head; they are held back, the older value stands, and the inputs come again.
"""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from schemas.codec import NewerMajorError, Record, RecordError, SchemaVersion, decode
from schemas.ids import HostId, VmId
from schemas.vm_state import Claim as ClaimRow
from schemas.vm_state import VmFacet, VmHead
from streams.vms.core import VmsCore
from streams.vms.facets import FACETS, NO_FACETS, SLOT_OF, pack_stored
from streams.vms.letters import VM_OBSERVATIONS, ask
from streams.vms.policy import RULES_VERSION
from streams.vms.rows import (
    GENERATION_BITS,
    HOST_PREFIX,
    PARTITION_KEY,
    VmsHostRow,
    VmsPartitionRow,
    claim_of_row,
    host_of_row,
    restore_clock,
    vm_of_row,
)
from streams.vms.state import Partition, Vm

Order = tuple[int, int, int]


class _Stored(NamedTuple):
    """A facet row as read."""

    order: Order
    fingerprint: bytes
    value: bytes


class _StoredHead(NamedTuple):
    """A head as read: bytes, since a million decoded heads beside the table they become would double the memory."""

    order: Order
    value: bytes
    schema: bytes | None


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
        self._facets: dict[bytes, tuple[_Stored, ...]] = {}
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
        order = (found.incarnation, found.version, found.applied)
        known = self._heads.get(key)
        if known is None or order >= known.order:
            self._heads[key] = _StoredHead(order, value, schema)

    def _add_facet(self, key: bytes, value: bytes | None, schema: bytes | None) -> None:
        if value is None:
            self._facets.pop(key, None)
            return
        facet = decode(VmFacet, value, schema)
        stored = _Stored((facet.incarnation, facet.version, facet.applied), facet.fingerprint, facet.value)
        self._facets[key] = (*self._needed(key), stored)

    def _needed(self, key: bytes) -> tuple[_Stored, ...]:
        """Earlier rows of this facet that a head may still name: the newest below the head, and all above it."""
        known = self._facets.get(key, ())
        head = self._heads.get(key[:36])
        if len(known) < 2 or head is None:
            return known
        below = max((one for one in known if one.order <= head.order), key=lambda one: one.order, default=None)
        held = tuple(one for one in known if one.order > head.order)
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
            lost |= self._restore_vm(decode(VmHead, stored.value, stored.schema), stored.order)
        for key in self._facets:
            state.deletable_facets[_facet_place(key)] = None
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

    def _restore_vm(self, head: VmHead, order: Order) -> set[HostId]:
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

    def _restore_claim(self, vm: Vm, row: ClaimRow, vm_text: str, order: Order) -> bool:
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

    def _value(self, key: bytes, normal: bytes, order: Order) -> bytes | None:
        """The stored value that this head lists: not above it, and with the fingerprint it names."""
        if not normal:
            return None
        stored = self._facets.pop(key, ())
        return next((one.value for one in reversed(stored) if one.order <= order and one.fingerprint == normal), None)


def _facet_place(key: bytes) -> tuple[VmId, HostId, int]:
    """The facet of a key that no head lists: its row is deleted with the next batch."""
    vm, host, facet = key.split(b"/", 2)
    return VmId(_raw(vm)), HostId(_raw(host)), SLOT_OF.get(facet.decode(), len(FACETS) - 1)


def _raw(text: bytes) -> bytes:
    return bytes.fromhex(text.decode("ascii").replace("-", ""))
