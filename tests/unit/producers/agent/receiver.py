"""The other side of an agent, as small as possible: applies reports in order and says whether both sides agree."""

from dataclasses import dataclass, field

from schemas.fingerprints import NO_VM, U64, low64, raw_fingerprint, storage_facet
from schemas.report import Changes, Farewell, HostReport, SnapshotPart


@dataclass
class Receiver:
    """State that follows from the reports alone; `problems` lists every broken promise."""

    vms: dict[bytes, dict[str, bytes]] = field(default_factory=dict)
    host: dict[str, bytes] = field(default_factory=dict)
    storage: dict[str, bytes] = field(default_factory=dict)
    epoch: bytes | None = None
    boot: bytes | None = None
    seq: int = 0
    epochs: int = 0
    snapshots: int = 0
    answered: list[bytes] = field(default_factory=list)
    forced: int = 0
    gone: list[tuple[bytes, str]] = field(default_factory=list)
    said_farewell: bool = False
    heartbeats: int = 0
    problems: list[str] = field(default_factory=list)
    _parts: tuple[bytes, int, int] | None = None
    late: int = 0
    _retired: set[bytes] = field(default_factory=set)

    def take(self, report: HostReport) -> None:
        """Apply a report; one of a retired epoch is dropped, as the hosts stage does it."""
        if report.agent_epoch in self._retired:
            self.late += 1
            return
        self._check_order(report)
        self.said_farewell = False
        match report.body:
            case SnapshotPart():
                self._take_part(report.body)
            case Farewell():
                self.said_farewell = True
            case Changes():
                self._take_changes(report.body)
        if self._parts is None and self.snapshots:
            self._check_agreement(report)

    def _check_order(self, report: HostReport) -> None:
        if report.agent_epoch != self.epoch:
            if self.epoch is not None:
                self._retired.add(self.epoch)
            self.epoch, self.seq, self._parts = report.agent_epoch, 0, None
            self.epochs += 1
            if not (isinstance(report.body, SnapshotPart) and report.body.part == 1):
                self.problems.append("an epoch did not begin with part 1 of a snapshot")
        if report.seq != self.seq + 1:
            self.problems.append(f"seq {report.seq} after {self.seq}")
        self.seq, self.boot = report.seq, report.boot_id

    def _take_part(self, part: SnapshotPart) -> None:
        if part.part == 1:
            self._parts = (part.snapshot_id, part.parts, 0)
            self.host, self.storage = dict(part.host), dict(part.storage)
        if self._parts is None or self._parts[:2] != (part.snapshot_id, part.parts) or part.part != self._parts[2] + 1:
            self.problems.append(f"part {part.part} of {part.parts} does not follow")
            return
        self._parts = (part.snapshot_id, part.parts, part.part)
        for vm in part.vms:
            self.vms[vm.vm_id] = dict(vm.facets)
        if (part.inventory is not None) != (part.part == part.parts):
            self.problems.append("the inventory belongs into the last part")
        if part.inventory is not None:
            self._finish(part, set(part.inventory))

    def _finish(self, part: SnapshotPart, inventory: set[bytes]) -> None:
        if missing := inventory - self.vms.keys():
            self.problems.append(f"{len(missing)} VMs of the inventory were never told")
        for vm_id in self.vms.keys() - inventory:
            del self.vms[vm_id]
            self.gone.append((vm_id, "inventory"))
        self._parts = None
        self.snapshots += 1
        self.forced += part.force
        self.answered += part.answers

    def _take_changes(self, changes: Changes) -> None:
        both = {vm.vm_id for vm in changes.vms} & {gone.vm_id for gone in changes.gone}
        if both:
            self.problems.append("a VM is both changed and gone in one report")
        for vm in changes.vms:
            self.vms.setdefault(vm.vm_id, {}).update(vm.facets)
        for gone in changes.gone:
            self.vms.pop(gone.vm_id, None)
            self.gone.append((gone.vm_id, gone.reason.value))
        self.host.update(changes.host)
        self.storage.update(changes.storage)
        for domain in changes.storage_gone:
            del self.storage[domain]
        self.heartbeats += changes == Changes()

    def _check_agreement(self, report: HostReport) -> None:
        if report.vm_count != len(self.vms):
            self.problems.append(f"seq {report.seq}: {report.vm_count} VMs told, {len(self.vms)} known")
        if report.digest != self.digest():
            self.problems.append(f"seq {report.seq}: digests differ")

    def digest(self) -> int:
        total = sum(
            low64(raw_fingerprint(vm_id, name, data))
            for vm_id, facets in self.vms.items()
            for name, data in facets.items()
        )
        total += sum(low64(raw_fingerprint(NO_VM, name, data)) for name, data in self.host.items())
        total += sum(low64(raw_fingerprint(NO_VM, storage_facet(name), data)) for name, data in self.storage.items())
        return total & U64
