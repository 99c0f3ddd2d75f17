"""Snapshots: how a whole host is cut into parts, and when one may be sent."""

from collections import OrderedDict
from dataclasses import dataclass, field

from producers.agent.clock import Instant
from producers.agent.core import AgentState, vm_bytes
from schemas.ids import RequestId, SnapshotId, VmId
from schemas.report import ENVELOPE_TARGET_BYTES, MAX_VMS_PER_REPORT, SnapshotPart
from schemas.resync import ResyncRequest

PLANNED_BYTES = ENVELOPE_TARGET_BYTES * 3 // 4
"""How full a part is planned. The rest is room for VMs that grow until their part is built."""
LIMIT_BYTES = ENVELOPE_TARGET_BYTES - 8 * 1024
"""How full a part may become; what remains is the envelope itself."""
MAX_VMS_PER_HOST = 20_000
"""The inventory of one host has to fit into one envelope."""
MAX_ANSWERS = 256
"""Requests named by one snapshot; more than that of one host are not honest."""

_ID_BYTES = 18


class PartTooLarge(Exception):
    """VMs grew beyond the room left for it: the snapshot has to be planned again, under a new id."""


@dataclass(kw_only=True, slots=True)
class Plan:
    """A snapshot under way. The VMs' bytes are not held: a part is built from what is published at that moment."""

    snapshot_id: SnapshotId
    chunks: list[list[VmId]]
    answers: list[RequestId]
    force: bool
    built: int = 0

    @property
    def last_is_next(self) -> bool:
        """True when only the part with the inventory is left."""
        return self.built == len(self.chunks) - 1

    @property
    def done(self) -> bool:
        """True when every part was built."""
        return self.built == len(self.chunks)


@dataclass(kw_only=True, slots=True, frozen=True)
class Asked:
    """What a snapshot is for."""

    answers: list[RequestId] = field(default_factory=list)
    force: bool = False


def plan(state: AgentState, snapshot_id: SnapshotId, asked: Asked, *, least_parts: int = 1) -> Plan:
    """Cut what is published into parts. The last one leaves room for the inventory."""
    chunks: list[list[VmId]] = [[]]
    host_bytes = sum(len(item.data) + 32 for item in (*state.host.values(), *state.storage.values()))
    used = host_bytes + _ID_BYTES * len(asked.answers)
    for vm_id, size in state.sizes():
        if chunks[-1] and (used + size > PLANNED_BYTES or len(chunks[-1]) >= MAX_VMS_PER_REPORT):
            chunks.append([])
            used = _ID_BYTES * len(asked.answers)
        chunks[-1].append(vm_id)
        used += size
    if used + _ID_BYTES * state.vm_count > PLANNED_BYTES:
        chunks.append([])
    while len(chunks) < least_parts:
        chunks.append([])
    return Plan(snapshot_id=snapshot_id, chunks=chunks, answers=asked.answers, force=asked.force)


def build_part(state: AgentState, under_way: Plan) -> SnapshotPart:
    """The next part: its VMs whole as published now; VMs that left meanwhile were told as gone.

    Raises PartTooLarge and leaves the plan as it was; a single VM can not be divided and may take up to twice that.
    """
    ids = [vm_id for vm_id in under_way.chunks[under_way.built] if vm_id in state.vms]
    first, last = under_way.built == 0, under_way.last_is_next
    inventory = list(state.vms) if last else None
    size = _ID_BYTES * (len(under_way.answers) + (len(inventory) if inventory else 0))
    size += sum(vm_bytes(state.vms[vm_id]) for vm_id in ids)
    if first:
        size += sum(len(item.data) + 32 for item in (*state.host.values(), *state.storage.values()))
    if size > LIMIT_BYTES and len(ids) > 1:
        raise PartTooLarge(f"part {under_way.built + 1} would take {size} bytes")
    under_way.built += 1
    return SnapshotPart(
        snapshot_id=under_way.snapshot_id,
        part=under_way.built,
        parts=len(under_way.chunks),
        vms=[state.whole(vm_id) for vm_id in ids],
        host={name: item.data for name, item in state.host.items()} if first else {},
        storage={domain: item.data for domain, item in state.storage.items()} if first else {},
        answers=under_way.answers,
        force=under_way.force,
        inventory=inventory,
    )


class SnapshotGate:
    """Merges open resync requests into one snapshot, at most one per interval. Told the time, keeps no clock."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._open: OrderedDict[RequestId, bool] = OrderedDict()
        self._answered: OrderedDict[RequestId, None] = OrderedDict()
        self._last: Instant | None = None

    def ask(self, request: ResyncRequest) -> bool:
        """Note a request; False when it is known already, or one too many."""
        known = request.request_id in self._answered or request.request_id in self._open
        if known or len(self._open) >= MAX_ANSWERS:
            return False
        self._open[request.request_id] = request.force
        return True

    def due_at_ns(self) -> int | None:
        """Monotonic time at which the next snapshot may be sent; None when none is asked."""
        if not self._open:
            return None
        return 0 if self._last is None else self._last.later(self._interval_seconds).monotonic_ns

    def due(self, now: Instant) -> bool:
        """True when a snapshot is asked and may be sent."""
        due_at = self.due_at_ns()
        return due_at is not None and now.monotonic_ns >= due_at

    def take(self, now: Instant) -> Asked:
        """Everything asked until now, as answered by the snapshot that begins now."""
        asked = Asked(answers=list(self._open), force=any(self._open.values()))
        for request_id in self._open:
            self._answered[request_id] = None
        while len(self._answered) > 4 * MAX_ANSWERS:
            self._answered.popitem(last=False)
        self._open.clear()
        self._last = now
        return asked
