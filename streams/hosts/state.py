"""What the core holds in memory: one `Host` per host, one tuple per (host, VM)."""

from struct import Struct
from typing import NamedTuple

from schemas.change import FacetChange
from schemas.fingerprints import U64, low64
from schemas.host_rows import MARKED_FACETS, HostRow, Silence
from schemas.ids import BootId, HostId, VmId, key_of
from schemas.status import Reachability

MARK_BYTES = 16
NO_MARK = bytes(MARK_BYTES)
NO_MARKS = bytes(MARK_BYTES * len(MARKED_FACETS))
MARK_AT = {facet.value: MARK_BYTES * index for index, facet in enumerate(MARKED_FACETS)}
"""Where the fingerprint of a facet stands in the marks of a VM."""

_LOW_HALVES = Struct(">" + "8xQ" * len(MARKED_FACETS))
"""Reads the low 64 bits of every mark of a VM at once."""

NEVER = 1 << 62
"""A tick that does not come."""


class VmMarks(NamedTuple):
    """What a host last said of a VM: about 300 bytes with its key."""

    partition: int
    marks: bytes
    """As in VmRow."""
    rejected: dict[str, bytes] | None = None
    """As in VmRow."""

    def total(self) -> int:
        """Its share of the host's digest, not yet reduced to 64 bits."""
        total = self.travelled()
        return total + instead(self.marks, self.rejected) if self.rejected else total

    def travelled(self) -> int:
        """Its share of the sum over what the vms stage was told, not yet reduced to 64 bits."""
        total: int = sum(_LOW_HALVES.unpack(self.marks))
        return total


def instead(marks: bytes, rejected: dict[str, bytes]) -> int:
    """What facets that did not travel add to the digest, less what they said before, which still stands in `marks`."""
    added = 0
    for name, mark in rejected.items():
        at = MARK_AT.get(name)
        added += low64(mark) - (0 if at is None else low64(marks[at : at + MARK_BYTES]))
    return added


class Shown(NamedTuple):
    """What the public sees of a host besides its facets; a difference is a change."""

    reachability: Reachability
    confirmed: bool
    flags: tuple[str, ...]
    machine_id: bytes
    boot_id: BootId
    agent_epoch: bytes


class Host:
    """A host's row, its VMs, and what is derived from them."""

    __slots__ = (
        "dirty_vms",
        "due_tick",
        "facet_changes",
        "grace_ticks",
        "graced_vms",
        "host_id",
        "key",
        "row",
        "shown",
        "vms",
    )

    def __init__(self, host_id: HostId, row: HostRow) -> None:
        self.host_id = host_id
        self.key = key_of(host_id)
        self.row = row
        self.vms: dict[VmId, VmMarks] = {}
        self.dirty_vms: dict[VmId, int] = {}
        """Whose rows the next seal writes or deletes, with the offset that changed them."""
        self.facet_changes: dict[str, FacetChange] = {}
        """Of the input under way."""
        self.shown: Shown | None = None
        """None before the first change was published."""
        self.grace_ticks = 0
        self.graced_vms = -1
        """Number of VMs for which the grace was computed."""
        self.due_tick = NEVER
        """When the watch looks at the host next."""

    def recompute(self) -> None:
        """Count and digest from the rows themselves."""
        row = self.row
        row.vm_count = len(self.vms)
        row.digest = (sum(map(low64, row.marks.values())) + sum(vm.total() for vm in self.vms.values())) & U64

    def set_vm(self, vm_id: VmId, marks: VmMarks, offset: int) -> None:
        """Remember what was said of a VM; the digest is the caller's."""
        self.vms[vm_id] = marks
        self.dirty_vms[vm_id] = offset

    def drop_vm(self, vm_id: VmId, offset: int) -> VmMarks | None:
        """Forget a VM and its share of the digest."""
        marks = self.vms.pop(vm_id, None)
        if marks is not None:
            self.dirty_vms[vm_id] = offset
            self.row.digest = (self.row.digest - marks.total()) & U64
        return marks


def reachability(row: HostRow) -> Reachability:
    """The one word for a host, of those that hold the one that matters most."""
    if row.fenced_boot is not None:
        return Reachability.FENCED
    if row.conflict is not None:
        return Reachability.CONFLICT
    if row.silence is not Silence.HEARD:
        return Reachability.SILENT if row.silence is Silence.SILENT else Reachability.AGENT_STOPPED
    if row.degraded:
        return Reachability.DEGRADED
    return Reachability.MAINTENANCE if row.maintenance else Reachability.UP


def shown(row: HostRow) -> Shown:
    """What the public should see of this row."""
    flags = (
        ("agent_flapping", row.flapping),
        ("clock_skewed", row.skewed),
        ("digest_mismatch", row.mismatched),
    )
    return Shown(
        reachability=reachability(row),
        confirmed=row.confirmed,
        flags=tuple(name for name, raised in flags if raised),
        machine_id=row.machine_id,
        boot_id=row.boot_id,
        agent_epoch=row.agent_epoch,
    )
