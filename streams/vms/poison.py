"""Inputs that can not be applied whole: the VM at fault is left out and shown as quarantined, the rest counts.

An input is tried as ever, but with everything it touches remembered. When something raises, or a record gets too large
for its topic, all is put back and tried again without the VM that was worked on. So what comes out for all others is
what would have come if nobody had said anything about that VM.

A quarantined VM is `unknown/quarantined` until its owner's next complete word: one VM of a forced snapshot, a first
claim, or its leaving. What is said of it meanwhile is applied, with the same care; where the snapshot asked for failed
for it too, something that can be applied again is the reason to ask once more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from infra.runtime.errors import FatalError
from schemas.change import Cause
from schemas.codec import NewerMajorError, encode
from schemas.ids import HostId, VmId, uuid_bytes
from schemas.observation import ObservationBatch, ReportObservations, VmObservation
from streams.runtime.stage import WHOLE, Demand, Fits, Input, Marks, Row
from streams.vms.emit import publish
from streams.vms.letters import put_aside
from streams.vms.policy import ASK_MOST_TICKS
from streams.vms.repairs import ask
from streams.vms.rows import seal
from streams.vms.state import Partition, Vm
from streams.vms.turn import Proof, Turn, proof_of_report, proof_of_tick
from streams.vms.undo import Undo, VmCopy, Watch

if TYPE_CHECKING:
    from streams.vms.core import VmsCore

MOST_AT_FAULT: Final = 32
"""VMs left out of one input; with more, the input itself is at fault and is put aside whole."""
MOST_MARKS: Final = 500
"""Marks written while one input is applied; VMs of a larger one are marked several at a time."""


class Fault(NamedTuple):
    """Why a VM, or the whole input, could not be applied."""

    vm_id: VmId | None
    reason: str
    """`poison`: it raised. `crash`: it ended a process. `too_large`: a record of it does not fit into its topic."""
    error: str


class _TooLarge(Exception):
    """A record does not fit; the text says which."""


def all_fit(topic: str, size: int) -> bool:
    """Says that every record is small enough; for inputs that did not fail for their size."""
    return True


def unmarked(names: Sequence[bytes]) -> None:
    """Writes no mark; for inputs that did not end a process."""


def concerns_suspects(state: Partition, batch: ObservationBatch) -> bool:
    """Does this input speak of a VM, or of a host that claims one, that needs care?"""
    for report in batch.reports:
        if any(one.vm_id in state.suspects for one in report.vms):
            return True
        host = state.hosts.get(report.host_id)
        speaks_of_host = bool(report.host) or report.inventory is not None
        if speaks_of_host and host is not None and not state.suspects.isdisjoint(host.claims):
            return True
    return False


def isolate(
    core: VmsCore,
    record: Input,
    batch: ObservationBatch,
    *,
    condemned: Collection[bytes] = (),
    fits: Fits = all_fit,
    before: Marks = unmarked,
) -> Demand:
    """Apply a batch without the VMs that can not be applied; see `PartitionCore.isolate`."""
    state = core.state
    if WHOLE in condemned:
        return put_aside_whole(core, record, batch, Fault(None, "crash", "applying it ended processes"))
    faults = {VmId(name): Fault(VmId(name), "crash", "applying it ended the process") for name in condemned}
    incomplete = _claims_known(state, batch)
    while True:
        undo = Undo(state)
        watch = Watch(undo, frozenset(faults))
        fault = _try(core, record, batch, watch, fits, before)
        if fault is None:
            break
        undo.restore()
        if fault.vm_id is None or fault.vm_id in faults or len(faults) >= MOST_AT_FAULT:
            return put_aside_whole(core, record, batch, fault)
        faults[fault.vm_id] = fault
    made = len(state.outputs)
    for one in faults.values():
        _quarantine(core, record, batch, one)
    _lift(core, record, batch, incomplete, faults.keys())
    return Demand(records=made + 2 * len(watch.touched) + 2, urgent=True)


def isolate_intent(core: VmsCore, record: Input, condemned: Collection[bytes]) -> Demand:
    """Apply the copy of an intent, or put it aside; no VM is the worse for it."""
    fault = "applying it ended processes"
    if not condemned:
        undo = Undo(core.state)
        try:
            return core.take_intent(record)
        except (MemoryError, NewerMajorError):
            raise
        except Exception as problem:
            undo.restore()
            fault = f"{type(problem).__name__}: {problem}"
        finally:
            undo.stop()
    put_aside(core.state, record, record.value, reason="crash" if condemned else "poison", error=fault)
    core.skip(record)
    return Demand(records=2, urgent=True)


def put_aside_whole(core: VmsCore, record: Input, batch: ObservationBatch, fault: Fault) -> Demand:
    """Nobody can say whose fault it is: the input is a dead letter, every VM in it is in quarantine."""
    state = core.state
    put_aside(state, record, record.value, reason=fault.reason, error=fault.error)
    named = [one.vm_id for report in batch.reports for one in report.vms]
    for vm_id in dict.fromkeys(named):
        _quarantine(core, record, batch, Fault(vm_id, fault.reason, fault.error), letter=False)
    for report in batch.reports:
        ask(state, report.host_id, "quarantine")
    core.skip(record)
    return Demand(records=2 * len(named) + 2, urgent=True)


def _try(
    core: VmsCore, record: Input, batch: ObservationBatch, watch: Watch, fits: Fits, before: Marks
) -> Fault | None:
    """Apply it without those left out. Raises what must stop the process."""
    made = len(core.state.outputs)
    core.make_turn = watch.turn
    try:
        core.take(record, _without(batch, watch, before))
        _check_size(core.state, made, watch, fits)
    except (FatalError, MemoryError, NewerMajorError):
        # Not the input's fault: a mark could not be written, or nothing may go on.
        raise
    except _TooLarge as problem:
        return Fault(watch.last, "too_large", str(problem))
    except Exception as problem:
        return Fault(watch.last, "poison", f"{type(problem).__name__}: {problem}")
    finally:
        core.make_turn = Turn
        watch.undo.stop()
    return None


class _Told(list[VmObservation]):
    """What a report says of VMs; says before each of them whose turn it is."""

    watch: Watch
    before: Marks
    stride: int

    def __iter__(self) -> Iterator[VmObservation]:
        told = super().__iter__()
        while group := list(islice(told, self.stride)):
            self.before([one.vm_id for one in group])
            for one in group:
                self.watch.last = one.vm_id
                yield one
        if self:
            self.before(())
        self.watch.last = None


def _without(batch: ObservationBatch, watch: Watch, before: Marks) -> ObservationBatch:
    """The batch without what it says of those left out."""
    stride = max(1, sum(len(report.vms) for report in batch.reports) // MOST_MARKS)
    reports = []
    for report in batch.reports:
        told = _Told(one for one in report.vms if one.vm_id not in watch.excluded)
        told.watch, told.before, told.stride = watch, before, stride
        reports.append(msgspec.structs.replace(report, vms=told))
    return msgspec.structs.replace(batch, reports=reports)


def _check_size(state: Partition, made: int, watch: Watch, fits: Fits) -> None:
    """Raise for the first VM of which an output or a row is too large, or can not be written at all."""
    for output in state.outputs[made:]:
        size = len(output.key or b"") + len(output.value or b"")
        if not fits(output.topic, size):
            watch.last = _vm_of_key(output.key)
            raise _TooLarge(f"a record of {size} bytes for {output.topic}")
    for vm_id in watch.touched:
        watch.last = vm_id
        for row in rows_of(state, vm_id):
            size = len(row.key) + len(row.value or b"")
            if not fits("vm.state", size):
                raise _TooLarge(f"a row of {size} bytes for vm.state under {row.key.decode('ascii', 'replace')}")


def rows_of(state: Partition, vm_id: VmId) -> list[Row]:
    """The rows of this VM as the next seal would write them, the partition's own with them; changes nothing."""
    kept, vm = dict(vars(state)), state.vms.get(vm_id)
    applied = -1 if vm is None else vm.applied
    state.outputs = []
    state.dirty_heads = {vm_id: None}
    state.dirty_facets = {place: None for place in state.dirty_facets if place[0] == vm_id}
    state.dirty_hosts, state.deletable_facets = {}, {}
    try:
        return seal(state).rows
    finally:
        vars(state).update(kept)
        if vm is not None:
            vm.applied = applied


def _vm_of_key(key: bytes | None) -> VmId | None:
    try:
        return None if key is None else VmId(uuid_bytes(key.decode("ascii")))
    except ValueError:
        return None


def _place_of(batch: ObservationBatch, vm_id: VmId) -> tuple[ReportObservations, VmObservation] | None:
    """The last report of the batch that speaks of this VM."""
    for report in reversed(batch.reports):
        for one in report.vms:
            if one.vm_id == vm_id:
                return report, one
    return None


def _quarantine(core: VmsCore, record: Input, batch: ObservationBatch, fault: Fault, *, letter: bool = True) -> None:
    """Show the VM as not known, put aside what was said of it, and ask its hosts for all they know."""
    state, vm_id = core.state, fault.vm_id
    if vm_id is None:
        return
    place = _place_of(batch, vm_id)
    report = None if place is None else place[0]
    vm = state.vms.get(vm_id)
    asked: dict[HostId, None] = {}
    if report is not None:
        asked[report.host_id] = None
    if vm is not None and vm.owner is not None:
        asked[vm.owner] = None
    if letter:
        host_id = next(iter(asked), None)
        part = b"" if place is None else _part(batch, *place)
        put_aside(state, record, part, reason=fault.reason, error=fault.error, vm_id=vm_id, host_id=host_id)
    is_new = vm_id not in state.suspects
    state.suspects.add(vm_id)
    if vm is not None:
        proof = proof_of_tick(batch) if report is None else proof_of_report(batch, report)
        _show(core, record, vm, proof, quarantined=True)
    if is_new and letter:
        for host_id in asked:
            ask(state, host_id, "quarantine")
    state.count("quarantines", fault.reason)


def _part(batch: ObservationBatch, report: ReportObservations, one: VmObservation) -> bytes:
    """What was said of one VM, as a batch of its own."""
    alone = msgspec.structs.replace(report, vms=[one], inventory=None, host=[])
    return encode(msgspec.structs.replace(batch, reports=[alone]))


def _show(core: VmsCore, record: Input, vm: Vm, proof: Proof, *, quarantined: bool) -> None:
    """Publish that the VM is in quarantine, or is no more. What can not be published is remembered all the same."""
    state = core.state
    turn = core.turn(record.offset, 0, proof)
    if vm.quarantined is quarantined or turn.repeats(vm):
        return
    made, copy, is_dirty = len(state.outputs), VmCopy(vm), vm.id in state.dirty_heads
    try:
        turn.open(vm)
        vm.quarantined = quarantined
        if quarantined:
            vm.timers = tuple(timer for timer in vm.timers if not _is_due(state, timer.due_tick, timer.due_time))
        turn.because(vm, Cause.GAP if quarantined else Cause.REPORTED)
        publish(turn)
        rows_of(state, vm.id)
    except MemoryError:
        raise
    except Exception:
        copy.restore()
        del state.outputs[made:]
        state.fingerprints.pop(vm.id, None)
        if not is_dirty:
            state.dirty_heads.pop(vm.id, None)


def _is_due(state: Partition, due_tick: int | None, due_time: int | None) -> bool:
    """It ran out with this input, which is what failed; nothing would start it again."""
    clock = state.clock
    return (due_tick is not None and due_tick <= clock.ticks) or (due_time is not None and due_time <= clock.time)


def _claims_known(state: Partition, batch: ObservationBatch) -> set[tuple[HostId, VmId]]:
    """Which of the VMs that need care each host spoke of before; what it says now is not the whole."""
    return {
        (report.host_id, one.vm_id)
        for report in batch.reports
        for one in report.vms
        if one.vm_id in state.suspects
        and (vm := state.vms.get(one.vm_id)) is not None
        and vm.claim_of(report.host_id) is not None
    }


def _lift(
    core: VmsCore,
    record: Input,
    batch: ObservationBatch,
    known: set[tuple[HostId, VmId]],
    at_fault: Collection[VmId],
) -> None:
    """End the quarantine of VMs whose owner said everything of them, or that left its list; or ask for everything."""
    state = core.state
    complete: dict[VmId, tuple[HostId, ReportObservations]] = {}
    spoken: set[tuple[HostId | None, VmId]] = set()
    for report in batch.reports:
        for one in report.vms:
            spoken.add((report.host_id, one.vm_id))
            if report.force or one.gone is not None or (report.host_id, one.vm_id) not in known:
                complete[one.vm_id] = report.host_id, report
    for vm_id in sorted(state.suspects - set(at_fault)):
        vm = state.vms.get(vm_id)
        said = complete.get(vm_id)
        if vm is None:
            if said is not None:
                state.suspects.discard(vm_id)
            continue
        claim = vm.owner_claim
        if (said is not None and said[0] == vm.owner) or claim is None or claim.ended:
            proof = proof_of_tick(batch) if said is None else proof_of_report(batch, said[1])
            _show(core, record, vm, proof, quarantined=False)
            if not vm.quarantined:
                state.suspects.discard(vm_id)
                state.count("quarantines", "lifted")
        elif vm.owner is not None and (vm.owner, vm_id) in spoken:
            # Its last snapshot may hold what never can be applied while changes can: so as seldom as any need is asked.
            ask(state, vm.owner, "quarantine", wait_ticks=ASK_MOST_TICKS)
