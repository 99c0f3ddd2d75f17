"""Rows of vm.state: what memory holds in its public form, and the bookkeeping rows that readers skip.

| key | row |
|---|---|
| `<vm_id>/<host_id>/<facet>` | VmFacet, before the head that lists it |
| `<vm_id>` | VmHead |
| `#host/<host_id>` | VmsHostRow |
| `#partition` | VmsPartitionRow, last in every batch |

Every row of a batch carries the order number of the batch's last input: all inputs up to it are in the row. So a
batch of which only the first rows were written is recognised, VM by VM, when its inputs are applied again.
"""

from sys import intern
from typing import Any, ClassVar, Final

import msgspec

from schemas.codec import Record, SchemaVersion, encode, header_of
from schemas.ids import BootId, HostId, RunId, VmId, uuid_bytes, uuid_text
from schemas.rules import RULES_VERSION
from schemas.status import Doubt, Reachability
from schemas.vm_state import Claim as ClaimRow
from schemas.vm_state import Position, VmFacet, VmHead
from streams.runtime.stage import PARTITION_KEY, Batch, Row
from streams.vms.availability import shown_availability
from streams.vms.clock import Clock, Source, Standing
from streams.vms.facets import NAMES, Prints, marks, normal_of, prints_of, value_of
from streams.vms.policy import BUCKET_TOKENS
from streams.vms.requests import Repair
from streams.vms.state import Claim, Host, Partition, Vm
from streams.vms.texts import text_of
from streams.vms.turn import shown_facets
from streams.vms.twins import WORD, twin_of

HOST_PREFIX: Final = b"#host/"
GENERATION_BITS: Final = 40
"""`applied` of a row = generation of vm.observations << 40 | offset."""


class SourceRow(msgspec.Struct, frozen=True, array_like=True):
    """One hosts partition in the clock."""

    log: int
    tick: int
    tick_at: int
    base: int
    ahead: int
    standing: int
    chain_log: int = -1
    until: int = -1


class VmsPartitionRow(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a partition of the stage is."""

    SCHEMA: ClassVar[SchemaVersion] = SchemaVersion(record="VmsPartitionRow", major=1, minor=2)

    applied: int
    """Offset in vm.observations."""
    generation: int
    """Of vm.observations: raised when the topic was re-created and offsets begin anew."""
    topic_id: str
    rules_version: int
    ticks: int
    time: int
    newest_at: int
    pulse: int
    sources: list[SourceRow]
    table_start: int = 0
    """Where the log of vm.state may begin; a later beginning means that rows were cut off."""
    ask_tokens: int = BUCKET_TOKENS
    ask_filled_at: int = 0
    next_intent: int = 0
    """Offset in vm.intents of the first record that was not taken."""
    intents_topic_id: str = ""
    newer_until: int = 0
    """Inputs below this offset may follow newer rules: the stage was rolled back after they were written."""


class VmsHostRow(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a partition of the stage knows of a host."""

    SCHEMA: ClassVar[SchemaVersion] = SchemaVersion(record="VmsHostRow", major=1, minor=1)

    host_id: HostId
    source: int
    boot_id: BootId
    reachability: Reachability
    reasons: list[Doubt]
    confirmed: bool
    confirmed_tick: int
    position: Position
    heard: Position
    late: bool
    repair_asked: bool
    applied: int
    repair: Repair | None = None
    unequal: int = 0


_HEAD_SCHEMA: Final = header_of(VmHead)
_FACET_SCHEMA: Final = header_of(VmFacet)
_HOST_SCHEMA: Final = header_of(VmsHostRow)
_PARTITION_SCHEMA: Final = header_of(VmsPartitionRow)

_Head: Final = twin_of(VmHead)
_Claim: Final = twin_of(ClaimRow)
_Facet: Final = twin_of(VmFacet)
_Host: Final = twin_of(VmsHostRow)


_read_head: Final = msgspec.msgpack.Decoder(VmHead).decode


def seal(state: Partition) -> Batch:
    """Everything since the last seal, encoded: facets, heads, hosts, partition, and rows that ended a batch ago."""
    at = (state.generation << GENERATION_BITS) + state.applied
    texts = _Texts(state)
    rows = _facet_rows(state, texts, at)
    rows += _head_rows(state, texts, at)
    for host_id in state.dirty_hosts:
        rows.append(_host_row(state.hosts[host_id], at))
    rows.append(Row(PARTITION_KEY, encode(partition_row(state)), _PARTITION_SCHEMA))
    batch = Batch(state.outputs, rows)
    state.outputs = []
    state.fingerprints = {}
    state.dirty_heads, state.dirty_facets, state.dirty_hosts = {}, {}, {}
    state.deletable_facets, state.ended_facets = state.ended_facets, {}
    return batch


class _Texts:
    """Texts of hosts, so that they are not made anew for every claim."""

    __slots__ = ("_hosts",)

    def __init__(self, state: Partition) -> None:
        self._hosts = state.hosts

    def host(self, host_id: HostId) -> str:
        host = self._hosts.get(host_id)
        return uuid_text(host_id) if host is None else host.text


def _facet_key(vm_id: VmId, host: str, slot: int) -> bytes:
    return f"{text_of(vm_id)}/{host}/{NAMES[slot]}".encode()


def _facet_rows(state: Partition, texts: _Texts, at: int) -> list[Row]:
    rows: list[Row] = []
    for vm_id, host_id, slot in state.deletable_facets:
        if _packed(state, vm_id, host_id, slot) is None:
            rows.append(Row(_facet_key(vm_id, texts.host(host_id), slot), None, None))
    for vm_id, host_id, slot in state.dirty_facets:
        packed = _packed(state, vm_id, host_id, slot)
        if packed is None:
            continue
        vm = state.vms[vm_id]
        row = _Facet()
        row.incarnation = vm.incarnation
        row.version = vm.version
        row.applied = at
        row.fingerprint = normal_of(packed)
        row.value = value_of(packed)
        rows.append(Row(_facet_key(vm_id, texts.host(host_id), slot), encode(row), _FACET_SCHEMA))
    return rows


def _packed(state: Partition, vm_id: VmId, host_id: HostId, slot: int) -> bytes | None:
    vm = state.vms.get(vm_id)
    claim = None if vm is None else vm.claim_of(host_id)
    return None if claim is None else claim.facets[slot]


def _head_rows(state: Partition, texts: _Texts, at: int) -> list[Row]:
    rows = []
    for vm_id in state.dirty_heads:
        vm = state.vms.get(vm_id)
        text = text_of(vm_id)
        if vm is None:
            rows.append(Row(text.encode(), None, None))
        else:
            vm.applied = at
            prints = state.fingerprints.get(vm_id)
            rows.append(Row(text.encode(), encode(_head(vm, text, texts, prints)), _HEAD_SCHEMA))
    return rows


def heads_of(state: Partition, *, applied: int) -> list[VmHead]:
    """Every head as it would be written now, in the order of `state.vms`; for dumps and comparisons."""
    texts = _Texts(state)
    rows = [encode(_head(vm, uuid_text(vm.id), texts, None)) for vm in state.vms.values()]
    return [msgspec.structs.replace(_read_head(row), applied=applied) for row in rows]


def _head(vm: Vm, text: str, texts: _Texts, prints: Prints | None) -> Any:
    """A twin of VmHead."""
    head = _Head()
    head.vm_id = text
    head.incarnation = vm.incarnation
    head.version = vm.version
    head.status = WORD[vm.status]
    head.availability = shown_availability(vm)
    head.host_id = None if vm.owner is None else texts.host(vm.owner)
    head.ownership_epoch = vm.epoch
    head.run_id = None if vm.run_id is None else text_of(vm.run_id)
    head.exit = vm.exit
    head.observed_at = vm.observed_at
    head.detected_at = vm.detected_at
    head.digest = vm.digest
    head.applied = vm.applied
    head.claims = [_claim_row(claim, texts) for claim in vm.claims]
    head.facets = (prints or prints_of(shown_facets(vm))).by_slot
    head.managed = vm.managed or {}
    head.intents = vm.intents or []
    head.timers = list(vm.timers)
    head.pending = vm.pending
    head.gone = WORD[vm.gone]
    head.out_seen = vm.out_seen
    head.owned_seen = vm.owned_seen
    head.quarantined = vm.quarantined
    return head


def _claim_row(claim: Claim, texts: _Texts) -> Any:
    """A twin of `schemas.vm_state.Claim`."""
    row = _Claim()
    row.host_id = texts.host(claim.host)
    row.position = (claim.log, claim.offset)
    row.appended_at = claim.appended_at
    row.boot_id = text_of(claim.boot)
    row.status = WORD[claim.status]
    row.reason = claim.reason
    row.pause_reason = WORD[claim.pause_reason]
    row.process_id = claim.process_id
    row.exit_reason = WORD[claim.exit_reason]
    row.peer = claim.peer
    row.phase = claim.phase
    row.facets = marks(claim.facets)
    row.ended = claim.ended
    row.incoming = claim.incoming
    row.lost = claim.lost
    row.grace = claim.grace
    row.conflict = claim.conflict
    row.borrowed = claim.borrowed
    row.seen = claim.seen
    return row


def claim_of_row(row: ClaimRow, ids: dict[str, bytes]) -> Claim:
    """The claim as memory holds it, but for its facets. `ids`: raw ids by text, so that equal ones are one object."""
    claim = Claim(HostId(_raw_id(row.host_id, ids)), BootId(_raw_id(row.boot_id, ids)))
    claim.log, claim.offset = row.position.log, row.position.offset
    claim.appended_at = row.appended_at
    claim.status = row.status
    claim.reason = None if row.reason is None else intern(row.reason)
    claim.pause_reason = row.pause_reason
    claim.process_id = row.process_id
    claim.exit_reason = row.exit_reason
    claim.peer = row.peer
    claim.phase = row.phase
    claim.ended = row.ended
    claim.incoming = row.incoming
    claim.lost = row.lost
    claim.grace = row.grace
    claim.conflict = row.conflict
    claim.borrowed = row.borrowed
    claim.seen = row.seen
    return claim


def _raw_id(text: str, ids: dict[str, bytes]) -> bytes:
    raw = ids.get(text)
    if raw is None:
        raw = ids[text] = uuid_bytes(text)
    return raw


def vm_of_row(row: VmHead, ids: dict[str, bytes]) -> Vm:
    """The VM as memory holds it, but for its claims."""
    vm = Vm(VmId(uuid_bytes(row.vm_id)), row.incarnation)
    vm.version = row.version
    vm.status = row.status
    vm.shown = tuple(row.availability.reasons)
    vm.since = row.availability.since
    vm.owner = None if row.host_id is None else HostId(_raw_id(row.host_id, ids))
    vm.epoch = row.ownership_epoch
    vm.run_id = None if row.run_id is None else RunId(uuid_bytes(row.run_id))
    vm.exit = row.exit
    vm.observed_at = row.observed_at
    vm.detected_at = row.detected_at
    vm.digest = row.digest
    vm.applied = row.applied
    vm.managed = row.managed or None
    vm.intents = row.intents or None
    vm.timers = tuple(row.timers)
    vm.pending = row.pending
    vm.gone = row.gone
    vm.out_seen = row.out_seen
    vm.owned_seen = row.owned_seen
    vm.quarantined = row.quarantined
    return vm


def _host_row(host: Host, at: int) -> Row:
    host.applied = at
    row = _Host()
    row.host_id = host.id
    row.source = host.source
    row.boot_id = host.boot
    row.reachability = host.reachability
    row.reasons = sorted(host.reasons)
    row.confirmed = host.confirmed
    row.confirmed_tick = host.confirmed_tick
    row.position = host.position
    row.heard = host.heard
    row.late = host.late
    row.repair_asked = host.repair_asked
    row.applied = at
    row.repair = host.repair
    row.unequal = host.unequal
    return Row(HOST_PREFIX + host.text.encode(), encode(row), _HOST_SCHEMA)


def host_of_row(row: VmsHostRow) -> Host:
    """The host as memory holds it, but for its index of VMs."""
    host = Host(row.host_id, row.source, row.boot_id)
    host.reachability = row.reachability
    host.reasons = frozenset(row.reasons)
    host.confirmed = row.confirmed
    host.confirmed_tick = row.confirmed_tick
    host.position = (row.position.log, row.position.offset)
    host.heard = (row.heard.log, row.heard.offset)
    host.late = row.late
    host.repair_asked = row.repair_asked
    host.repair = row.repair
    host.unequal = row.unequal
    host.applied = row.applied
    return host


def partition_row(state: Partition) -> VmsPartitionRow:
    """The partition's own row; a restart reads on behind `applied`."""
    clock = state.clock
    return VmsPartitionRow(
        applied=state.applied,
        generation=state.generation,
        topic_id=state.topic_id,
        rules_version=RULES_VERSION,
        ticks=clock.ticks,
        time=clock.time,
        newest_at=clock.newest_at,
        pulse=clock.pulse,
        sources=[
            SourceRow(one.log, one.tick, one.tick_at, one.base, one.ahead, one.standing.value, one.chain_log, one.until)
            for one in clock.sources
        ],
        ask_tokens=state.bucket.tokens,
        ask_filled_at=state.bucket.filled_at,
        next_intent=state.intents.next_offset,
        intents_topic_id=state.intents.topic_id,
        table_start=state.table_start,
        newer_until=state.newer_until,
    )


def restore_clock(clock: Clock, row: VmsPartitionRow) -> None:
    """Set the readings; raises ValueError when the row is of another number of partitions."""
    if len(row.sources) != len(clock.sources):
        raise ValueError(
            f"vm.state was written with {len(row.sources)} hosts partitions, the settings say {len(clock.sources)}"
        )
    clock.ticks, clock.time, clock.newest_at, clock.pulse = row.ticks, row.time, row.newest_at, row.pulse
    for source, kept in zip(clock.sources, row.sources, strict=True):
        _restore_source(source, kept)


def _restore_source(source: Source, kept: SourceRow) -> None:
    source.log, source.tick, source.tick_at = kept.log, kept.tick, kept.tick_at
    source.base, source.ahead = kept.base, kept.ahead
    source.standing = Standing(kept.standing)
    source.chain_log, source.until = kept.chain_log, kept.until


def restore_requests(state: Partition, row: VmsPartitionRow) -> None:
    """Set how far requests and intents are; intents of another topic begin anew."""
    state.bucket.tokens, state.bucket.filled_at = row.ask_tokens, row.ask_filled_at
    if row.intents_topic_id in ("", state.intents.topic_id):
        state.intents.next_offset = row.next_intent
