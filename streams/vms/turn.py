"""A turn: everything that one piece of evidence does, published as at most one change per VM.

A piece of evidence is one input record of host.reports, or one timer that ran out. Rules open a VM before they touch
it; what the VM looked like then is compared with what it looks like at the end.
"""

import msgspec

from schemas.change import Cause, Exit
from schemas.ids import BootId, HostId, RunId, VmId
from schemas.observation import ObservationBatch, ReportObservations
from schemas.status import ALIVE, ENDED, Doubt, Status
from streams.vms.facets import NO_FACETS, PackedFacets, Readings, after_end
from streams.vms.state import Host, Partition, Vm


class Proof(msgspec.Struct, frozen=True, gc=False):
    """Where the evidence is, and who gave it."""

    source: int
    log: int
    offset: int
    """In host.reports; -1 for a tick."""
    appended_at: int
    observed_at: int
    host: HostId | None = None
    boot: BootId | None = None
    seq: int | None = None
    tick: int | None = None

    @property
    def position(self) -> tuple[int, int]:
        return self.log, self.offset


def proof_of_report(batch: ObservationBatch, report: ReportObservations) -> Proof:
    """What a report of this batch says is proven by the report."""
    return Proof(
        source=batch.source,
        log=batch.log,
        offset=report.offset,
        appended_at=report.appended_at,
        observed_at=report.observed_at,
        host=report.host_id,
        boot=report.boot_id,
        seq=report.seq,
    )


def proof_of_tick(batch: ObservationBatch) -> Proof:
    """What follows from time is proven by the tick that this batch forwards."""
    return Proof(batch.source, batch.log, -1, batch.tick_at, batch.tick_at, tick=batch.tick)


class View(msgspec.Struct, frozen=True, gc=False):
    """What the public sees of a VM."""

    status: Status
    shown: tuple[Doubt, ...]
    owner: HostId | None
    epoch: int
    run_id: RunId | None
    exit: Exit | None
    facets: PackedFacets

    @property
    def frame(self) -> tuple[object, ...]:
        """All but the facets."""
        return self.status, self.shown, self.owner, self.epoch, self.run_id, self.exit


UNBORN = View(Status.REMOVED, (), None, 0, None, None, NO_FACETS)
"""Before the first version of an incarnation: whatever comes is new."""

_WEIGHT = {
    cause: weight
    for weight, cause in enumerate(
        (
            Cause.HOST,
            Cause.TIMER,
            Cause.REPORTED,
            Cause.GONE,
            Cause.JUDGED,
            Cause.CONFLICT_ENDED,
            Cause.CONFLICT,
            Cause.REMOVED,
            Cause.ADOPTED,
            Cause.HANDED_OVER,
            Cause.RESTARTED,
            Cause.GAP,
            Cause.CREATED,
            Cause.REBUILT,
        )
    )
}
"""Of several causes in one turn the weightiest is named."""


def shown_facets(vm: Vm) -> PackedFacets:
    """A VM's own facets: its owner's, less what ends with a run (D5)."""
    owner = vm.owner
    for claim in vm.claims:
        if claim.host == owner:
            return after_end(claim.facets) if vm.status in ENDED else claim.facets
    return NO_FACETS


def view_of(vm: Vm) -> View:
    return View(vm.status, vm.shown, vm.owner, vm.epoch, vm.run_id, vm.exit, shown_facets(vm))


class Turn:
    """The evidence, the partition it falls into, and the VMs it opened."""

    __slots__ = ("at", "causes", "force", "opened", "position", "proof", "readings", "seen", "state")

    def __init__(self, state: Partition, at: int, seen: int, proof: Proof) -> None:
        self.state = state
        self.at = at
        """Order number of the input record (generation and offset), against `Vm.applied`."""
        self.seen = seen
        """Place in vm.observations, to order evidence of different hosts."""
        self.proof = proof
        self.position = proof.position
        self.readings: Readings = {}
        self.force = False
        """Part of a forced snapshot: what seems equal is read and written all the same."""
        self.opened: dict[VmId, View] = {}
        self.causes: dict[VmId, Cause] = {}

    def repeats(self, vm: Vm) -> bool:
        """This input is in the VM's row already (a batch was torn)."""
        return self.at <= vm.applied or self.at <= self.state.floor

    def open(self, vm: Vm) -> None:
        """Must come before the first touch of a VM: remembers how it was published."""
        if vm.id not in self.opened:
            self.opened[vm.id] = view_of(vm) if vm.version else UNBORN
            self.state.dirty_heads[vm.id] = None

    def because(self, vm: Vm, cause: Cause) -> None:
        """Name a cause; it is told only if something published differs in the end."""
        known = self.causes.get(vm.id)
        if known is None or _WEIGHT[cause] > _WEIGHT[known]:
            self.causes[vm.id] = cause

    def was_alive(self, vm: Vm) -> bool:
        """The VM was published as alive before this turn."""
        before = self.opened.get(vm.id)
        return before is not None and before is not UNBORN and before.status in ALIVE

    def host_of(self, vm: Vm) -> Host | None:
        """The owner's host."""
        return None if vm.owner is None else self.state.hosts.get(vm.owner)
