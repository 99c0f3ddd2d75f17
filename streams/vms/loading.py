"""A partition's core from the log of vm.state (`streams.runtime.stage.PartitionLoader`).

Rows are ordered by (incarnation, version, applied), not by their place in the log: a dead owner may have written late.
A torn batch leaves facet rows above their head; they are held back, the older value stands, and the inputs come again.

Made for millions of rows: one is only put beside the others of its VM when it is read, and decoded when the log is at
its end; until then nothing but what is there twice costs anything.
"""

from collections.abc import Iterator, Mapping
from heapq import heappush
from typing import Any, cast

import msgspec

from schemas.codec import NewerMajorError, RecordError, decode, header_of
from schemas.ids import HostId, VmId, uuid_bytes
from schemas.rules import RULES_VERSION
from schemas.vm_state import Claim as ClaimRow
from schemas.vm_state import VmFacet, VmHead
from streams.runtime.stage import PARTITION_KEY, Kept
from streams.vms.core import VmsCore
from streams.vms.facets import NO_FACETS, SLOT_OF, pack_stored
from streams.vms.intent_log import IntentLog
from streams.vms.intents import VM_INTENTS
from streams.vms.letters import VM_OBSERVATIONS
from streams.vms.repairs import want
from streams.vms.rows import (
    GENERATION_BITS,
    HOST_PREFIX,
    VmsHostRow,
    VmsPartitionRow,
    claim_of_row,
    host_of_row,
    restore_clock,
    restore_requests,
    vm_of_row,
)
from streams.vms.state import Partition, Vm

_HEAD_SCHEMA = header_of(VmHead)
_FACET_SCHEMA = header_of(VmFacet)
# Headers are looked at when a row is taken; from then on it is known what its bytes are.
_read_head = msgspec.msgpack.Decoder(VmHead).decode
_read_facet = msgspec.msgpack.Decoder(VmFacet).decode
_VM_KEY = 36
"""Characters of a VM's id, with which the keys of all its rows begin."""
_FACET_KEY = _VM_KEY + 1

_Order = tuple[int, int, int]
"""(incarnation, version, applied)."""
_Place = tuple[HostId, int]
"""Whose facet, and which one, by slot."""
_VmRows = list[bytes | _Place | None]
"""The rows of one VM as read: its head or None, then place and row of each facet in turns, in the order of the log."""
_SETTLE_ROWS = 64
"""Facet rows of one VM after which those that no head can name any more are dropped."""


class _Ordered(msgspec.Struct, frozen=True, kw_only=True):
    """What orders the versions of a row; the rest is read when it is known which one counts."""

    incarnation: int
    version: int
    applied: int = 0


_read_order = msgspec.msgpack.Decoder(_Ordered).decode


class VmsLoader:
    """Takes rows in log order, then builds the core."""

    def __init__(
        self,
        partition: int,
        partitions: int,
        topic_ids: Mapping[str, str],
        *,
        another_log: bool = False,
        newer_rules: bool = False,
        intent_secret: bytes = b"",
    ) -> None:
        """`another_log`: take vm.observations for another log than the table's, whatever its id.

        `newer_rules`: also take a table that newer rules wrote. `intent_secret`: what signs copies of intents.
        """
        self._another_log = another_log
        self._newer_rules = newer_rules
        self._state = Partition(partition, partitions)
        self._state.topic_id = topic_ids.get(VM_OBSERVATIONS, "")
        self._state.intents = IntentLog(intent_secret, topic_ids.get(VM_INTENTS, ""))
        self._vms: dict[bytes, _VmRows] = {}
        self._hosts: dict[bytes, VmsHostRow] = {}
        self._partition: VmsPartitionRow | None = None
        self._ids: dict[str, bytes] = {}
        """Of hosts and boots: a million claims share a few thousand."""
        self._places: dict[bytes, _Place | None] = {}
        """By what follows the VM in a key; None for a facet that this version does not know."""

    @property
    def kept(self) -> Kept | None:
        """See GuardedLoader."""
        row = self._partition
        if row is None:
            return None
        return Kept(foreign=self._is_foreign(row), table_start=row.table_start, rules_version=row.rules_version)

    def _is_foreign(self, row: VmsPartitionRow) -> bool:
        topic_id = self._state.topic_id
        return self._another_log or (bool(topic_id) and row.topic_id not in ("", topic_id))

    def add(self, key: bytes, value: bytes | None, schema: bytes | None) -> None:
        """Take one row; a deleted key is forgotten."""
        # Most rows are facets of hosts that were met before.
        place = self._places.get(key[_FACET_KEY:])
        if place is not None and value is not None and schema == _FACET_SCHEMA:
            rows = self._vms.get(key[:_VM_KEY])
            if rows is None:
                self._vms[key[:_VM_KEY]] = [None, place, value]
                return
            rows += place, value
            if len(rows) % (2 * _SETTLE_ROWS) == 1:
                self._settle(key, rows)
        elif len(key) > _FACET_KEY and not key.startswith(b"#"):
            self._add_facet(key, value, schema)
        elif key.startswith(b"#"):
            self._add_bookkeeping(key, value, schema)
        else:
            self._add_head(key, value, schema)

    def _add_head(self, key: bytes, value: bytes | None, schema: bytes | None) -> None:
        rows = self._vms.get(key)
        if value is None:
            if rows is not None:
                rows[0] = None
            return
        if schema != _HEAD_SCHEMA:
            decode(VmHead, value, schema)
        if rows is None:
            self._vms[key] = [value]
        elif rows[0] is None or self._order(key, value) >= self._order(key, cast(bytes, rows[0])):
            rows[0] = value

    def _add_facet(self, key: bytes, value: bytes | None, schema: bytes | None) -> None:
        """A row whose place was not met before, that another version wrote, or that deletes."""
        told = key[_FACET_KEY:]
        if told not in self._places:
            self._places[told] = _place_of(told)
        place = self._places[told]
        if place is None:
            return
        if value is None:
            rows = self._vms.get(key[:_VM_KEY])
            if rows is not None:
                rows[1:] = [one for pair in _facet_rows(rows) if pair[0] != place for one in pair]
            return
        decode(VmFacet, value, schema)
        self.add(key, value, _FACET_SCHEMA)

    def _settle(self, key: bytes, rows: _VmRows) -> None:
        """Keep the rows that a head may still name: of each facet the newest below this head, and all above it."""
        if rows[0] is None:
            return
        highest = self._order(key, cast(bytes, rows[0]))
        below: dict[_Place, _Order] = {}
        kept: _VmRows = []
        for place, row in reversed(list(_facet_rows(rows))):
            order = self._order(key, row)
            if order <= highest:
                if place in below and order <= below[place]:
                    continue
                below[place] = order
            kept += row, place
        rows[1:] = reversed(kept)

    def _order(self, key: bytes, row: bytes) -> _Order:
        try:
            found = _read_order(row)
        except msgspec.DecodeError as problem:
            raise self._damaged(key, problem) from problem
        return found.incarnation, found.version, found.applied

    def _damaged(self, key: bytes, problem: Exception) -> RecordError:
        where = f"vm.state[{self._state.number}] {key.decode('ascii', 'replace')[:80]}"
        return RecordError(f"{where}: {problem}; the table is damaged")

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
            if host.repair is not None:
                heappush(state.repairs, (host.repair.due, host.id))
        lost: set[HostId] = set()
        while self._vms:
            key, rows = self._vms.popitem()
            try:
                self._restore_vm(key, rows, lost)
            except (msgspec.DecodeError, ValueError) as problem:
                raise self._damaged(key, problem) from problem
        state.torn = max((vm.applied for vm in state.vms.values()), default=-1)
        for host_id in sorted(lost & state.hosts.keys()):
            want(state, state.hosts[host_id], "lost_facet")
        return VmsCore(state)

    def _restore_partition(self) -> None:
        row, state = self._partition, self._state
        if row is None:
            return
        if row.rules_version > RULES_VERSION and not self._newer_rules:
            raise NewerMajorError(
                f"vm.state[{state.number}] was written by rules {row.rules_version}, this program knows "
                f"{RULES_VERSION}; run the newer version, or `deltavisor stream rollback vms` to go back"
            )
        try:
            restore_clock(state.clock, row)
        except ValueError as problem:
            raise RecordError(f"vm.state[{state.number}]: {problem}") from problem
        same_log = not self._is_foreign(row)
        restore_requests(state, row)
        state.table_start = row.table_start
        state.generation = row.generation if same_log else row.generation + 1
        state.applied = row.applied if same_log else -1
        state.newer_until = row.newer_until if same_log else 0
        state.floor = (row.generation << GENERATION_BITS) + row.applied

    def _restore_vm(self, key: bytes, rows: _VmRows, lost: set[HostId]) -> None:
        """Put a VM into the tables; adds to `lost` the hosts of whose claims a facet is missing."""
        head_row: Any = rows[0]
        # The newest row of each facet stands last, and is the one that is named but after a torn batch.
        newest: Any = dict(zip(rows[1::2], rows[2::2], strict=True))
        if head_row is None:
            vm_id = VmId(uuid_bytes(key.decode("ascii")))
        else:
            head = _read_head(head_row)
            vm = vm_of_row(head, self._ids)
            vm_id = vm.id
            self._state.vms[vm_id] = vm
            if vm.quarantined:
                self._state.suspects.add(vm_id)
            order = (head.incarnation, head.version, head.applied)
            for row in head.claims:
                if self._restore_claim(vm, row, order, rows, newest):
                    lost.add(vm.claims[-1].host)
            for timer in vm.timers:
                self._state.timers.push(vm_id, timer)
        for host_id, slot in newest:
            # No head lists it: its row is deleted with the next batch.
            self._state.deletable_facets[(vm_id, host_id, slot)] = None

    def _restore_claim(self, vm: Vm, row: ClaimRow, order: _Order, rows: _VmRows, newest: dict[_Place, bytes]) -> bool:
        """Add this claim to the VM and take its rows out of `newest`; True when one of its facets is missing.

        The value that a head lists is in a row that is not above it and has the fingerprint that it names.
        """
        claim = claim_of_row(row, self._ids)
        facets = list(NO_FACETS)
        missing = False
        for name, mark in row.facets.items():
            slot = SLOT_OF.get(name)
            if slot is None:
                continue
            normal = mark.normal
            value: bytes | None = b""
            if normal:
                place = (claim.host, slot)
                stored, value = newest.pop(place, None), None
                if stored is not None:
                    facet = _read_facet(stored)
                    value = facet.value
                    if facet.fingerprint != normal or (facet.incarnation, facet.version, facet.applied) > order:
                        value = _older_value(rows, place, normal, order)
            if value is None:
                missing = True
                continue
            facets[slot] = pack_stored(mark.raw, normal, rejected=mark.rejected, value=value)
        claim.facets = tuple(facets)
        vm.claims.append(claim)
        host = self._state.hosts.get(claim.host)
        if not claim.ended:
            claims = self._state.orphans.setdefault(claim.host, set()) if host is None else host.claims
            claims.add(vm.id)
        return missing


def _place_of(told: bytes) -> _Place | None:
    """Host and slot of `<host_id>/<facet>`; None for a facet that this version does not know."""
    host, _, name = told.decode("ascii", "replace").partition("/")
    slot = SLOT_OF.get(name)
    try:
        return None if slot is None else (HostId(uuid_bytes(host)), slot)
    except ValueError as problem:
        raise RecordError(f"vm.state: a key ends in {host[:80]!r}/{name}, which names no host: {problem}") from problem


def _facet_rows(rows: _VmRows) -> Iterator[tuple[_Place, bytes]]:
    """Place and row of each facet row, in the order of the log."""
    pairs = iter(rows)
    next(pairs)
    return cast(Iterator[tuple[_Place, bytes]], zip(pairs, pairs, strict=True))


def _older_value(rows: _VmRows, place: _Place, normal: bytes, order: _Order) -> bytes | None:
    """The value of the last row of this place that is not above this order and has this fingerprint."""
    for one, row in reversed(list(_facet_rows(rows))):
        if one == place:
            facet = _read_facet(row)
            if facet.fingerprint == normal and (facet.incarnation, facet.version, facet.applied) <= order:
                return facet.value
    return None
