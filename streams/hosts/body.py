"""What a report says: facets through the gate, VMs that are gone, snapshots and their inventory (design §4.2, §4.3)."""

from collections.abc import Iterable

from schemas.fingerprints import U64, storage_facet
from schemas.host_rows import SnapshotProgress
from schemas.ids import VmId, key_of, partition_of
from schemas.observation import VmObservation
from schemas.report import Changes, SnapshotPart, VmFacets
from schemas.status import GoneReason
from streams.hosts import admission, agreement, host_facets
from streams.hosts.gate import Refused, gate
from streams.hosts.state import NO_MARKS, VmMarks
from streams.hosts.turn import Turn

MAX_ANSWERS = 256
"""Requests named by one snapshot; an honest agent names no more."""


class BodyReader:
    """Applies bodies to hosts; knows how VMs are spread over the vms partitions."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self.equal_facets = 0
        """Facets that ended at the gate since the owner last looked."""

    def take_changes(self, turn: Turn, body: Changes) -> list[Refused]:
        """Apply changes. A VM both gone and reported is there: it came back before the report was sent."""
        refused: list[Refused] = []
        if body.gone:
            self._take_gone(turn, body)
        if body.vms:
            self._take_vms(turn, body.vms, refused, whole=False)
        if body.host or body.storage or body.storage_gone:
            self._take_host(turn, body.host, body.storage, refused, force=False)
            for domain in body.storage_gone:
                host_facets.forget(turn.row, storage_facet(domain))
        return refused

    def take_part(self, turn: Turn, body: SnapshotPart) -> tuple[SnapshotProgress | None, list[Refused]]:
        """Apply a part of a snapshot; with the last part, the snapshot as it ended."""
        row, refused = turn.row, list[Refused]()
        turn.force = body.force
        row.snapshot = agreement.advance(row, body, turn.moment.tick)
        self._take_vms(turn, body.vms, refused, whole=True)
        if body.part == 1:
            host_facets.keep_only(row, body.host, body.storage)
        self._take_host(turn, body.host, body.storage, refused, force=body.force)
        if body.inventory is None:
            return None, refused
        ended = row.snapshot
        if admission.is_answered(row, ended):
            admission.end_conflict(turn)
        if row.conflict is None:
            self._judge_inventory(turn, body.inventory)
            if ended.whole:
                turn.answers = body.answers[:MAX_ANSWERS] or None
        agreement.end_snapshot(row, ended, forced=body.force)
        turn.host.recompute()
        return ended, refused

    def _take_vms(self, turn: Turn, vms: list[VmFacets], refused: list[Refused], *, whole: bool) -> None:
        host, force, offset = turn.host, turn.force, turn.moment.offset
        known, drift, equal = host.vms, 0, 0
        for vm in vms:
            vm_id, facets = vm.vm_id, vm.facets
            before = known.get(vm_id)
            is_new = before is None
            if before is None:
                before = VmMarks(self._partition_of(vm_id), NO_MARKS)
            gated = gate(vm_id, before, facets, whole=whole, force=force)
            equal += len(facets) - len(gated.passed)
            if gated.refused:
                refused += gated.refused
            if is_new or gated.after != before:
                host.set_vm(vm_id, gated.after, offset)
                drift += gated.drift
            if gated.passed or is_new or force:
                turn.observe(before.partition, VmObservation(vm_id, gated.passed), gated.passed_bytes)
        turn.row.digest = (turn.row.digest + drift) & U64
        turn.row.vm_count = len(known)
        self.equal_facets += equal

    def _take_gone(self, turn: Turn, body: Changes) -> None:
        here = {vm.vm_id for vm in body.vms}
        for gone in body.gone:
            marks = turn.host.drop_vm(gone.vm_id, turn.moment.offset)
            if gone.vm_id not in here:
                partition = self._partition_of(gone.vm_id) if marks is None else marks.partition
                turn.observe(partition, VmObservation(gone.vm_id, {}, gone.reason))
        turn.row.vm_count = len(turn.host.vms)

    def _take_host(
        self, turn: Turn, facets: dict[str, bytes], storage: dict[str, bytes], refused: list[Refused], *, force: bool
    ) -> None:
        for name, data in facets.items():
            if wrong := host_facets.take_facet(turn, name, data, force=force):
                refused.append(wrong)
        for domain, data in storage.items():
            if wrong := host_facets.take_storage(turn.row, domain, data):
                refused.append(wrong)

    def _judge_inventory(self, turn: Turn, inventory: list[VmId]) -> None:
        """VMs of this host that are not listed are absent; the list itself travels on, so that claims end."""
        listed = set(inventory)
        for vm_id in [vm_id for vm_id in turn.host.vms if vm_id not in listed]:
            marks = turn.host.drop_vm(vm_id, turn.moment.offset)
            if marks is not None:
                turn.observe(marks.partition, VmObservation(vm_id, {}, GoneReason.ABSENT))
        turn.inventory = self._split(turn, inventory)

    def _split(self, turn: Turn, inventory: Iterable[VmId]) -> dict[int, list[VmId]]:
        shares: dict[int, list[VmId]] = {}
        for vm_id in inventory:
            marks = turn.host.vms.get(vm_id)
            partition = self._partition_of(vm_id) if marks is None else marks.partition
            shares.setdefault(partition, []).append(vm_id)
        return shares

    def _partition_of(self, vm_id: VmId) -> int:
        return partition_of(key_of(vm_id), self._partitions)
