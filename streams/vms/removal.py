"""The end of a row: a VM that nobody lists any more becomes `removed`, and later forgotten (O9, S4)."""

from schemas.change import Cause
from schemas.status import GoneReason, Status
from schemas.vm_state import PendingKind
from streams.vms import timers
from streams.vms.facets import NO_FACETS, when_gone
from streams.vms.policy import FORGET_TICKS, REMOVE_TICKS
from streams.vms.state import Vm
from streams.vms.turn import Turn


def consider_removal(turn: Turn, vm: Vm) -> None:
    """Remove it, or set the day on which it will be removed, if nobody has it. Called when a claim or a run ended.

    What became `down` in this very turn is removed with the next tick: both are changes of their own.
    """
    state = turn.state
    claim = vm.owner_claim
    if claim is not None and claim.ended and not vm.alive:
        state.set_facets(vm, claim, when_gone(claim.facets))
    if not _nobody_has_it(vm):
        return
    if vm.gone is not GoneReason.UNDEFINED or vm.alive:
        state.arm(vm, timers.REMOVE, due_tick=state.clock.ticks + REMOVE_TICKS)
    elif turn.was_alive(vm):
        state.arm(vm, timers.REMOVE, due_tick=state.clock.ticks + 1)
    else:
        remove(turn, vm)


def _nobody_has_it(vm: Vm) -> bool:
    if vm.status is Status.REMOVED or any(not claim.ended for claim in vm.claims):
        return False
    if vm.pending is not None:
        return vm.pending.kind is PendingKind.MIGRATED_AWAY
    return not vm.alive


def remove_when_due(turn: Turn, vm: Vm) -> None:
    """The timer ran out."""
    if _nobody_has_it(vm):
        remove(turn, vm)


def remove(turn: Turn, vm: Vm) -> None:
    """`removed`; the claims stay without facets, to know an old process when a late host speaks of it."""
    state = turn.state
    for claim in vm.claims:
        state.set_facets(vm, claim, NO_FACETS)
        claim.incoming = claim.lost = claim.grace = claim.conflict = False
    vm.status = Status.REMOVED
    vm.owner = None
    vm.pending = None
    vm.timers = ()
    state.arm(vm, timers.FORGET, due_tick=state.clock.ticks + FORGET_TICKS)
    turn.because(vm, Cause.REMOVED)


def forget(turn: Turn, vm: Vm) -> None:
    """The row itself goes: a tombstone follows the `removed` head. Not while a host still speaks of it."""
    state = turn.state
    if vm.status is not Status.REMOVED or not all(claim.ended for claim in vm.claims):
        return
    for claim in list(vm.claims):
        state.drop_claim(vm, claim)
    del state.vms[vm.id]
    turn.opened.pop(vm.id, None)
    state.dirty_heads[vm.id] = None
