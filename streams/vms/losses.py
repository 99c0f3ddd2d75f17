"""Losses that were inferred, not told: what becomes of them when the clock has passed (S1, S3, O2, design §5)."""

from schemas.change import Cause
from schemas.status import ExitStatus, Status
from schemas.vm_state import Pending, PendingKind
from streams.vms import timers
from streams.vms.policy import JUDGE_NS
from streams.vms.removal import consider_removal
from streams.vms.state import Vm
from streams.vms.succession import (
    end_run,
    find_heir,
    hand_over,
    hand_over_to_silent,
    is_held,
    named_peer,
    succeed,
)
from streams.vms.turn import Turn


def judge_loss(turn: Turn, vm: Vm) -> None:
    """A loss is due. Not before everything that others said until 10 s after it is read."""
    pending = vm.pending
    if pending is None or pending.kind is PendingKind.MIGRATED_AWAY:
        return
    passed_at = pending.appended_at + JUDGE_NS
    if turn.state.clock.time < passed_at:
        turn.state.arm(vm, timers.JUDGE, due_time=passed_at)
        return
    heir = find_heir(turn.state, vm, observed=False)
    if heir is not None:
        if is_held(vm):
            hand_over(turn, vm, heir)
        else:
            succeed(turn, vm, heir)
    elif pending.migrated or _peer_never_heard(turn, vm, pending):
        _migrated_away(turn, vm, pending)
    elif not (is_held(vm) and pending.exit.status is not ExitStatus.NORMAL and hand_over_to_silent(turn, vm)):
        end_run(turn, vm, Status.DOWN, pending.exit, Cause.JUDGED, observed=False)


def _peer_never_heard(turn: Turn, vm: Vm, pending: Pending) -> bool:
    """It may run on a host that no agent watches: nobody can say that it does not."""
    peer = named_peer(vm)
    return (
        is_held(vm)
        and pending.exit.status is not ExitStatus.NORMAL
        and peer is not None
        and peer not in turn.state.hosts
    )


def _migrated_away(turn: Turn, vm: Vm, pending: Pending) -> None:
    """Its source handed it to somebody who is not heard: unknown, never down (O2)."""
    vm.pending = Pending(
        kind=PendingKind.MIGRATED_AWAY,
        appended_at=pending.appended_at,
        exit=pending.exit,
        migrated=True,
        gone=pending.gone,
    )
    turn.state.disarm(vm, *timers.LOSS_TIMERS)
    turn.because(vm, Cause.TIMER)
    consider_removal(turn, vm)
