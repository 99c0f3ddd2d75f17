"""What the hosts stage says of a host, and what that does to the VMs it claims (rules H1 to H6, S3)."""

from collections.abc import Callable
from typing import Final

from schemas.change import Cause
from schemas.observation import HostEvent, ReportObservations
from schemas.status import Doubt, GoneReason, Reachability
from schemas.vm_state import PendingKind
from streams.vms import timers
from streams.vms.admission import News
from streams.vms.owner import lost_in_boot, on_owner, on_owner_gone
from streams.vms.policy import JUDGE_NS
from streams.vms.repairs import heard_again
from streams.vms.rivals import judge, judge_all, on_rival_gone
from streams.vms.state import Claim, Host, Vm
from streams.vms.turn import Turn

_ENDS_WITH_CONFIRMATION: Final = frozenset(
    {Doubt.HOST_SILENT, Doubt.AGENT_STOPPED, Doubt.LIBVIRT_UNREACHABLE, Doubt.REBUILDING}
)


def on_event(turn: Turn, host: Host, event: HostEvent) -> None:
    """One statement about a host; its VMs show another availability when its reasons changed."""
    before = host.reasons
    _EVENTS[event](turn, host)
    turn.state.dirty_hosts[host.id] = None
    if host.reasons != before:
        show_doubts(turn, host)


def show_doubts(turn: Turn, host: Host) -> None:
    """Open the VMs that this host owns: what they show is computed when the turn ends."""
    for vm in turn.state.claimed(host):
        if vm.owner == host.id and not turn.repeats(vm):
            turn.open(vm)
            turn.because(vm, Cause.HOST)


def _silent(turn: Turn, host: Host) -> None:
    _unheard(host, Reachability.SILENT, Doubt.HOST_SILENT)


def _stopped(turn: Turn, host: Host) -> None:
    _unheard(host, Reachability.AGENT_STOPPED, Doubt.AGENT_STOPPED)


def _unheard(host: Host, reachability: Reachability, doubt: Doubt) -> None:
    host.reachability = reachability
    host.reasons |= {doubt}
    host.confirmed = False


def _back(turn: Turn, host: Host) -> None:
    """Heard again; its VMs stay unknown until it is confirmed (H2)."""
    host.reachability = Reachability.UP
    heard_again(turn.state, host)


def _degraded(turn: Turn, host: Host) -> None:
    _unheard(host, Reachability.DEGRADED, Doubt.LIBVIRT_UNREACHABLE)


def _unconfirmed(turn: Turn, host: Host) -> None:
    host.confirmed = False


def _rebuilding(turn: Turn, host: Host) -> None:
    host.reasons |= {Doubt.REBUILDING}
    host.confirmed = False


def _new_epoch(turn: Turn, host: Host) -> None:
    """Another agent may well send readable what the one before did not."""
    host.confirmed = False
    host.repair_asked = False


def _conflict(turn: Turn, host: Host) -> None:
    host.reasons |= {Doubt.HOST_CONFLICT}
    host.confirmed = False


def _conflict_ended(turn: Turn, host: Host) -> None:
    host.reasons -= {Doubt.HOST_CONFLICT}
    mind_boot(turn, host)


def mind_boot(turn: Turn, host: Host) -> None:
    """The boot in a report counts, also when nobody said that it is new; not while two agents speak (H3)."""
    if turn.proof.boot != host.boot and Doubt.HOST_CONFLICT not in host.reasons:
        on_event(turn, host, HostEvent.NEW_BOOT)


def _new_boot(turn: Turn, host: Host) -> None:
    """Nothing of the old boot runs any more; what its VMs are now is judged at the confirmation (S3)."""
    host.confirmed = False
    host.repair_asked = False
    if turn.proof.boot is not None:
        host.boot = turn.proof.boot
    for vm in turn.state.claimed(host):
        claim = vm.claim_of(host.id)
        if vm.owner == host.id and claim is not None and claim.alive and vm.pending is None:
            _lose_if_of_another_boot(turn, vm, claim, host)


def _lose_if_of_another_boot(turn: Turn, vm: Vm, claim: Claim, host: Host) -> None:
    if vm.alive and claim.boot != host.boot and not turn.repeats(vm):
        turn.open(vm)
        lost_in_boot(turn, vm, host, gone=None)


def _confirmed(turn: Turn, host: Host) -> None:
    """What it says may be believed (H2): doubts end, old boots are judged, remembered claims have their turn.

    Told again at the end of a forced snapshot, which is news only for who lost evidence of this host.
    """
    if host.confirmed and not host.reasons & _ENDS_WITH_CONFIRMATION:
        return
    host.confirmed = True
    host.confirmed_tick = turn.state.clock.ticks
    if host.reachability is not Reachability.DEGRADED:
        host.reachability = Reachability.UP
        host.reasons -= _ENDS_WITH_CONFIRMATION
    for vm in list(turn.state.claimed(host)):
        claim = vm.claim_of(host.id)
        if claim is None or turn.repeats(vm):
            continue
        if vm.owner == host.id:
            _confirm_owned(turn, vm, claim, host)
        elif claim.alive:
            turn.open(vm)
            if claim.boot != host.boot:
                on_rival_gone(turn, vm, claim, GoneReason.ABSENT)
            else:
                judge(turn, vm, claim)


def _confirm_owned(turn: Turn, vm: Vm, claim: Claim, host: Host) -> None:
    pending = vm.pending
    if pending is not None and pending.kind is PendingKind.BOOT:
        turn.open(vm)
        if not any(timer.kind == timers.JUDGE for timer in vm.timers):
            turn.state.arm(vm, timers.JUDGE, due_time=turn.proof.appended_at + JUDGE_NS)
    elif claim.alive and pending is None:
        _lose_if_of_another_boot(turn, vm, claim, host)
    if len(vm.claims) > 1:
        turn.open(vm)
        judge_all(turn, vm)


_EVENTS: Final[dict[HostEvent, Callable[[Turn, Host], None]]] = {
    HostEvent.SILENT: _silent,
    HostEvent.STOPPED: _stopped,
    HostEvent.BACK: _back,
    HostEvent.DEGRADED: _degraded,
    HostEvent.RECOVERED: _back,
    HostEvent.CONFIRMED: _confirmed,
    HostEvent.NEW_BOOT: _new_boot,
    HostEvent.CONFLICT: _conflict,
    HostEvent.CONFLICT_ENDED: _conflict_ended,
    HostEvent.NEW_EPOCH: _new_epoch,
    HostEvent.UNCONFIRMED: _unconfirmed,
    HostEvent.REBUILDING: _rebuilding,
}


def leave(turn: Turn, vm: Vm, claim: Claim, host: Host, reason: GoneReason) -> None:
    """The VM left this host's list.

    While two agents speak for the host, the word of one proves nothing about an alive VM (H3); absence is not even
    sent then.
    """
    if claim.alive and Doubt.HOST_CONFLICT in host.reasons and reason is not GoneReason.ABSENT:
        return
    claim.log, claim.offset = turn.proof.position
    claim.appended_at = turn.proof.appended_at
    if vm.owner == host.id:
        on_owner_gone(turn, vm, claim, host, reason)
    else:
        on_rival_gone(turn, vm, claim, reason)


def take_inventory(turn: Turn, host: Host, report: ReportObservations) -> None:
    """End claims of a lower position that are not in it; what is in it and was said in an old boot runs in this one."""
    listed = set(report.inventory or ())
    for vm in list(turn.state.claimed(host)):
        claim = vm.claim_of(host.id)
        if claim is None or turn.repeats(vm) or claim.position >= turn.proof.position:
            continue
        if vm.id not in listed:
            turn.open(vm)
            leave(turn, vm, claim, host, GoneReason.ABSENT)
        elif claim.boot != report.boot_id:
            turn.open(vm)
            _now_of_this_boot(turn, vm, claim, host, report)
    if Doubt.REBUILDING in host.reasons:
        host.reasons -= {Doubt.REBUILDING}
        show_doubts(turn, host)


def _now_of_this_boot(turn: Turn, vm: Vm, claim: Claim, host: Host, report: ReportObservations) -> None:
    """Its facets are the same bytes in the new boot, so none travelled."""
    news = News(claim, first=False)
    claim.boot = report.boot_id
    claim.log, claim.offset = turn.proof.position
    claim.appended_at = turn.proof.appended_at
    claim.seen = turn.seen
    if vm.owner == host.id:
        on_owner(turn, vm, claim, host, news)
    else:
        judge(turn, vm, claim)
