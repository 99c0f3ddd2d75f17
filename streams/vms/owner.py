"""What the owner's evidence does: the status rules (rules §6) and the source's side of a migration (O2, O4, O7)."""

from schemas.change import Cause, Exit
from schemas.facets.run import Run
from schemas.status import ExitReason, ExitStatus, GoneReason, Status
from schemas.vm_state import Pending, PendingKind
from streams.vms import timers
from streams.vms.admission import News
from streams.vms.ownership import Word, word_of
from streams.vms.policy import HOLD_TICKS, JUDGE_NS, NO_EXIT_TICKS
from streams.vms.removal import consider_removal
from streams.vms.state import Claim, Host, Vm
from streams.vms.succession import (
    end_run,
    forget_loss,
    hand_over,
    hand_over_to_silent,
    is_held,
    live_destination,
    named_peer,
    new_run,
    show_status,
)
from streams.vms.turn import Turn

LOST = Exit(status=ExitStatus.ERROR, reason=ExitReason.LOST)
HOST_LOST = Exit(status=ExitStatus.ERROR, reason=ExitReason.HOST_LOST)
UNTOLD = Exit(status=ExitStatus.UNKNOWN, reason=ExitReason.UNKNOWN)


def on_owner(turn: Turn, vm: Vm, claim: Claim, host: Host, news: News) -> None:
    """The owner said something new about its VM."""
    if claim.status is None:
        return
    turn.because(vm, Cause.REPORTED)
    if claim.alive:
        _alive(turn, vm, claim, news)
    elif vm.alive:
        _ended(turn, vm, claim, host, news)
    elif news.run is not None:
        _ended_again(vm, claim, news.run)


def _alive(turn: Turn, vm: Vm, claim: Claim, news: News) -> None:
    waiting = vm.pending is not None
    same_process = _same_process(claim, news)
    if not vm.alive:
        if not same_process or vm.run_id is None:
            new_run(turn, vm)
        vm.exit = None
    elif not same_process:
        new_run(turn, vm)  # S7, S3: without a seen stop
        turn.because(vm, Cause.RESTARTED)
    started = not vm.alive or not same_process
    forget_loss(turn, vm)
    if started or waiting or claim.status is not news.status_before:
        show_status(turn, vm, claim, guest_answered=news.guest_answered)
    elif news.guest_answered and vm.status in (Status.POWERING_UP, Status.REBOOTING):
        guest_is_up(turn, vm)
    _migrating(turn, vm, claim, news)


def _same_process(claim: Claim, news: News) -> bool:
    """Not another process for certain: another boot, or another name for it, is (S3, S7)."""
    if claim.boot != news.boot_before:
        return False
    return news.process_before is None or claim.process_id is None or news.process_before == claim.process_id


def guest_is_up(turn: Turn, vm: Vm) -> None:
    """The guest answers, or has had its time (S5, S10)."""
    turn.state.disarm(vm, *timers.RUN_TIMERS)
    vm.status = Status.UP


def _migrating(turn: Turn, vm: Vm, claim: Claim, news: News) -> None:
    """O4: running again is a failed migration and no change of owner. O7: in post-copy the destination has it."""
    if claim.status is not Status.MIGRATING_FROM:
        vm.out_seen = 0
    elif news.status_before is not Status.MIGRATING_FROM or vm.out_seen == 0:
        vm.out_seen = turn.seen
    if word_of(claim) is Word.POST_COPY:
        # Its destination may have come before the word of the migration: any claim that it brought will do.
        incoming = [one for one in vm.rivals() if one.incoming and turn.state.reachable(one.host)]
        destination = max(incoming, key=lambda one: (one.host == named_peer(vm), one.seen, one.host), default=None)
        if destination is not None:
            hand_over(turn, vm, destination)
        else:
            hand_over_to_silent(turn, vm)


def _ended_again(vm: Vm, claim: Claim, run: Run) -> None:
    """S1: the first exit data stay; the status may say more, as when a crashed VM was cleaned up."""
    if claim.status is not None:
        vm.status = claim.status
    if vm.exit is None or vm.exit == UNTOLD:
        vm.exit = exit_of(run) or vm.exit


def exit_of(run: Run) -> Exit | None:
    """How the run ended, if the host knows."""
    if run.status is Status.SUSPENDED:
        return Exit(status=ExitStatus.NORMAL, reason=run.exit_reason or ExitReason.SAVED, message=run.exit_message)
    if run.status is Status.CRASHED:
        return Exit(status=ExitStatus.ERROR, reason=run.exit_reason or ExitReason.UNKNOWN, message=run.exit_message)
    if run.exit_status in (None, ExitStatus.UNKNOWN):
        if run.exit_reason is not ExitReason.MIGRATED:
            return None
        return Exit(status=ExitStatus.NORMAL, reason=ExitReason.MIGRATED, message=run.exit_message)
    return Exit(
        status=run.exit_status or ExitStatus.UNKNOWN,
        reason=run.exit_reason or ExitReason.UNKNOWN,
        message=run.exit_message,
    )


def _ended(turn: Turn, vm: Vm, claim: Claim, host: Host, news: News) -> None:
    """The owner of an alive VM says that it does not run: S1, S3, O2."""
    run = news.run
    told = None if run is None else exit_of(run)
    if told is None and (claim.boot != news.boot_before or _booting(vm)):
        lost_in_boot(turn, vm, host, gone=None)  # S3
        return
    if is_held(vm):
        return  # its source ended before, and only says so again
    exit_ = told or UNTOLD
    migrated = exit_.reason is ExitReason.MIGRATED
    if migrated or _migration_under_way(vm, exit_):
        source_ended(turn, vm, exit_, migrated=migrated)
    elif told is not None:
        end_run(turn, vm, claim.status or Status.DOWN, told, Cause.REPORTED, observed=True)
    elif vm.pending is None:
        _wait(turn, vm, PendingKind.NO_EXIT, UNTOLD, gone=None)
        turn.state.arm(vm, timers.JUDGE, due_tick=turn.state.clock.ticks + NO_EXIT_TICKS)


def _booting(vm: Vm) -> bool:
    return vm.pending is not None and vm.pending.kind is PendingKind.BOOT


def _migration_under_way(vm: Vm, exit_: Exit) -> bool:
    """A destination may have it. An end told as normal is only doubted while a destination is there to be seen."""
    if any(claim.status is Status.MIGRATING_TO for claim in vm.rivals()):
        return True
    return vm.status is Status.MIGRATING_FROM and exit_.status is not ExitStatus.NORMAL


def source_ended(turn: Turn, vm: Vm, exit_: Exit, *, migrated: bool, gone: GoneReason | None = None) -> None:
    """O2: to the destination if it is there; to a silent one as unknown; else hold until it comes."""
    state = turn.state
    destination = live_destination(state, vm)
    if destination is not None and (migrated or exit_.status is not ExitStatus.NORMAL):
        hand_over(turn, vm, destination)
        return
    if hand_over_to_silent(turn, vm):
        return
    _wait(turn, vm, PendingKind.HANDING_OVER, exit_, gone=gone, migrated=migrated)
    state.arm(vm, timers.HOLD, due_tick=state.clock.ticks + HOLD_TICKS)


def _wait(
    turn: Turn, vm: Vm, kind: PendingKind, exit_: Exit, *, gone: GoneReason | None, migrated: bool = False
) -> None:
    turn.state.disarm(vm, *timers.LOSS_TIMERS, *timers.RUN_TIMERS)
    vm.pending = Pending(kind=kind, appended_at=turn.proof.appended_at, exit=exit_, migrated=migrated, gone=gone)
    turn.because(vm, Cause.GONE if gone is not None else Cause.REPORTED)


def lost_in_boot(turn: Turn, vm: Vm, host: Host, gone: GoneReason | None) -> None:
    """S3: its host booted, its run is over; believed after the first complete snapshot and what others said by then."""
    _wait(turn, vm, PendingKind.BOOT, HOST_LOST, gone=gone)
    complete = gone is not None or (host.confirmed and host.boot == turn.proof.boot)
    if complete:
        turn.state.arm(vm, timers.JUDGE, due_time=turn.proof.appended_at + JUDGE_NS)


def on_owner_gone(turn: Turn, vm: Vm, claim: Claim, host: Host, reason: GoneReason) -> None:
    """The VM left its owner's list (S2, S3, O2, design §5)."""
    state = turn.state
    vm.gone = reason
    state.unlist_claim(vm, claim)
    booted = claim.boot != turn.proof.boot
    if not vm.alive:
        consider_removal(turn, vm)
        return
    pending = vm.pending
    if pending is not None and (is_held(vm) or not (booted or reason is GoneReason.MIGRATED)):
        _note_gone(turn, vm, pending, reason)
        return
    if reason is GoneReason.MIGRATED or _migration_under_way(vm, LOST):
        source_ended(turn, vm, LOST, migrated=reason is GoneReason.MIGRATED, gone=reason)
    elif booted:
        lost_in_boot(turn, vm, host, gone=reason)
    elif vm.status in (Status.POWERING_DOWN, Status.REBOOTING):
        end_run(turn, vm, Status.DOWN, _shut_down(vm), Cause.GONE, observed=True)
    else:
        _wait(turn, vm, PendingKind.ABSENCE, LOST, gone=reason)
        state.arm(vm, timers.JUDGE, due_time=turn.proof.appended_at + JUDGE_NS)


def _note_gone(turn: Turn, vm: Vm, pending: Pending, reason: GoneReason) -> None:
    vm.pending = Pending(
        kind=pending.kind,
        appended_at=pending.appended_at,
        exit=pending.exit,
        migrated=pending.migrated or reason is GoneReason.MIGRATED,
        gone=reason,
    )
    consider_removal(turn, vm)


def _shut_down(vm: Vm) -> Exit:
    reason = ExitReason.GUEST_SHUTDOWN if vm.status is Status.POWERING_DOWN else ExitReason.DESTROYED_ON_REBOOT
    return Exit(status=ExitStatus.NORMAL, reason=reason)
