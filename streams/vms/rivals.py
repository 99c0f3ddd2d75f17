"""What evidence of a host that is not the owner does: the verdicts of the ownership table (rules §5, O1 to O7)."""

from collections.abc import Callable
from typing import Final

from schemas.change import Cause
from schemas.status import ExitReason, ExitStatus, GoneReason, Status
from streams.vms import timers
from streams.vms.admission import News
from streams.vms.availability import is_known
from streams.vms.births import reborn
from streams.vms.ownership import OWNERSHIP, Verdict, Word, standing_of, word_of
from streams.vms.policy import SETTLED_TICKS
from streams.vms.removal import consider_removal
from streams.vms.state import Claim, Host, Vm
from streams.vms.succession import adopt, end_run, hand_over, is_held, named_peer
from streams.vms.turn import Turn


def on_rival(turn: Turn, vm: Vm, claim: Claim, news: News) -> None:
    """Another host said something new about this VM."""
    if not claim.alive:
        if claim.status is not None:
            close_claim(turn, vm, claim)
        return
    if claim.status is Status.MIGRATING_TO or (news.first and claim.reason == "migrated"):
        claim.incoming = True
    judge(turn, vm, claim)


def close_claim(turn: Turn, vm: Vm, claim: Claim) -> None:
    """It does not run there (any more): a definition, the end of a conflict (O3, O5), or of a failed migration."""
    if claim.conflict:
        turn.because(vm, Cause.CONFLICT_ENDED)
    claim.incoming = claim.lost = claim.grace = claim.conflict = False
    pending = vm.pending
    if is_held(vm) and pending is not None and not vm.rivals() and _told_normal(vm):
        end_run(turn, vm, Status.DOWN, pending.exit, Cause.REPORTED, observed=True)


def _told_normal(vm: Vm) -> bool:
    """The owner said that it ended normally, and was only doubted because a destination was there."""
    pending = vm.pending
    return (
        pending is not None
        and not pending.migrated
        and pending.exit.status is ExitStatus.NORMAL
        and pending.exit.reason is not ExitReason.MIGRATED
    )


def judge(turn: Turn, vm: Vm, claim: Claim) -> None:
    """Apply the ownership table to this claim as it stands now. Repeating it changes nothing."""
    host = turn.state.hosts[claim.host]
    if vm.status is Status.REMOVED:
        if _may_take(host) and not claim.ended and claim.status is not None:
            reborn(turn, vm, claim)
        return
    if not claim.alive or claim.host == vm.owner:
        return
    word = word_of(claim)
    if is_held(vm) and word in (Word.RUNNING, Word.INCOMING, Word.PAUSED):
        hand_over(turn, vm, claim)  # O2: held until a claim comes
        return
    if claim.grace or claim.conflict:
        return  # O1: 60 ticks before the table. O5: no flapping
    if word is Word.INCOMING and _owner_is_post_copy(vm):
        hand_over(turn, vm, claim)  # O7
        return
    _ACTIONS[OWNERSHIP[word][standing_of(vm, known=is_known(turn.state, vm))]](turn, vm, claim, host)


def _remember(turn: Turn, vm: Vm, claim: Claim, host: Host) -> None:
    """The claim is kept; it may be judged again when something around it changes."""


def _adopt(turn: Turn, vm: Vm, claim: Claim, host: Host) -> None:
    if _may_take(host):
        adopt(turn, vm, claim)


def _move_or_adopt(turn: Turn, vm: Vm, claim: Claim, host: Host) -> None:
    if host.late:
        return
    if claim.incoming or named_peer(vm) == claim.host:
        hand_over(turn, vm, claim)
    elif not host.confirmed:
        return
    elif claim.lost:
        _conflict(turn, vm, claim)
    else:
        adopt(turn, vm, claim)


def _move_or_conflict(turn: Turn, vm: Vm, claim: Claim, host: Host) -> None:
    if host.late:
        return
    if claim.incoming or (_owner_migrates(vm) and claim.status is not Status.MIGRATING_FROM):
        hand_over(turn, vm, claim)
    else:
        _conflict_when_settled(turn, vm, claim, host)


def _copy(turn: Turn, vm: Vm, claim: Claim, host: Host) -> None:
    if not claim.incoming and not _owner_migrates(vm):
        _conflict_when_settled(turn, vm, claim, host)


_ACTIONS: Final[dict[Verdict, Callable[[Turn, Vm, Claim, Host], None]]] = {
    Verdict.ADOPT: _adopt,
    Verdict.REMEMBER: _remember,
    Verdict.MOVE_OR_ADOPT: _move_or_adopt,
    Verdict.MOVE_OR_CONFLICT: _move_or_conflict,
    Verdict.COPY: _copy,
}


def _may_take(host: Host) -> bool:
    """Late or unconfirmed evidence takes nothing (O6); it is judged again when it no longer is."""
    return host.confirmed and not host.late


def _owner_migrates(vm: Vm) -> bool:
    claim = vm.owner_claim
    return claim is not None and claim.alive and claim.status is Status.MIGRATING_FROM


def _owner_is_post_copy(vm: Vm) -> bool:
    claim = vm.owner_claim
    return claim is not None and claim.alive and word_of(claim) is Word.POST_COPY


def _conflict_when_settled(turn: Turn, vm: Vm, claim: Claim, host: Host) -> None:
    """A conflict needs both hosts confirmed for 10 ticks; until then a timer, or a confirmation, asks again."""
    owner = turn.host_of(vm)
    if owner is None or not (owner.confirmed and _may_take(host)):
        return
    due = max(owner.confirmed_tick, host.confirmed_tick) + SETTLED_TICKS
    if turn.state.clock.ticks >= due:
        _conflict(turn, vm, claim)
    else:
        turn.state.arm(vm, timers.SETTLE, due_tick=due)


def _conflict(turn: Turn, vm: Vm, claim: Claim) -> None:
    claim.conflict = True
    turn.because(vm, Cause.CONFLICT)


def on_rival_gone(turn: Turn, vm: Vm, claim: Claim, reason: GoneReason) -> None:
    """The VM left the list of a host that did not own it: the claim ends."""
    vm.gone = reason
    turn.state.drop_claim(vm, claim)
    close_claim(turn, vm, claim)
    consider_removal(turn, vm)


def judge_all(turn: Turn, vm: Vm) -> None:
    """Judge every claim of the VM but its owner's, oldest first."""
    for claim in sorted(vm.rivals(), key=lambda claim: (claim.seen, claim.host)):
        judge(turn, vm, claim)


def end_grace(turn: Turn, vm: Vm) -> None:
    """60 ticks after a hand-over the table holds again for the old owner; one that migrates out needs no more time."""
    for claim in sorted(vm.claims, key=lambda claim: (claim.seen, claim.host)):
        if claim.grace:
            claim.grace = False
            if claim.status is not Status.MIGRATING_FROM:
                judge(turn, vm, claim)
