"""Who has a VM: changes of owner, ends of runs, and the choice between the two (O1, O2, D5, design §5).

The one place that makes a VM `down`. It does so only when no other host may have the VM: a live claim takes over, and
so does one that can not be asked now, as unknown.
"""

import xxhash

from schemas.change import Cause, Exit
from schemas.ids import HostId, RunId, uuid_bytes
from schemas.status import ALIVE, Status
from schemas.vm_state import PendingKind
from streams.vms import timers
from streams.vms.ownership import Word, word_of
from streams.vms.policy import GRACE_TICKS, POWERING_UP_TICKS, REBOOTING_TICKS
from streams.vms.removal import consider_removal
from streams.vms.state import Claim, Host, Partition, Vm
from streams.vms.turn import Turn


def new_run(turn: Turn, vm: Vm) -> None:
    """A run starts with this evidence, which names it; nothing of the run before holds any more."""
    proof = turn.proof
    origin = f"{proof.log}:{proof.source}:{proof.offset}:{proof.tick}"
    vm.run_id = RunId(xxhash.xxh3_128_digest(vm.id + origin.encode()))
    vm.exit = None


def adopt(turn: Turn, vm: Vm, claim: Claim) -> None:
    """Owner := this host, epoch + 1, a new run."""
    _take(turn, vm, claim, Cause.ADOPTED)
    new_run(turn, vm)


def hand_over(turn: Turn, vm: Vm, claim: Claim) -> None:
    """Owner := the destination, epoch + 1, the same run; the old owner has 60 ticks to end (O1)."""
    before = vm.owner_claim
    _take(turn, vm, claim, Cause.HANDED_OVER)
    vm.exit = None
    if vm.run_id is None:
        new_run(turn, vm)
    if before is not None and before.alive:
        before.grace = True
        turn.state.arm(vm, timers.GRACE, due_tick=turn.state.clock.ticks + GRACE_TICKS)


def hand_over_unheard(turn: Turn, vm: Vm, host: Host) -> None:
    """To a named peer that is silent and has said nothing of the VM: it shows what the source said, as unknown."""
    before = vm.owner_claim
    claim = Claim(host.id, host.boot)
    claim.status = Status.MIGRATING_TO
    claim.borrowed = True
    claim.appended_at = turn.proof.appended_at
    claim.seen = turn.seen
    claim.log = 0
    turn.state.add_claim(vm, claim)
    if before is not None:
        claim.facets = before.facets
        for slot, packed in enumerate(before.facets):
            if packed is not None:
                turn.state.dirty_facets[(vm.id, claim.host, slot)] = None
    hand_over(turn, vm, claim)


def _take(turn: Turn, vm: Vm, claim: Claim, cause: Cause) -> None:
    state = turn.state
    before = vm.owner_claim
    vm.owner = claim.host
    vm.epoch += 1
    vm.owned_seen = turn.seen
    vm.out_seen = turn.seen if claim.status is Status.MIGRATING_FROM else 0
    claim.incoming = claim.lost = claim.grace = claim.conflict = False
    if before is not None and before is not claim:
        if before.ended:
            state.drop_claim(vm, before)
        elif before.alive:
            before.lost = True
    forget_loss(turn, vm)
    show_status(turn, vm, claim, guest_answered=False)
    turn.because(vm, cause)


def forget_loss(turn: Turn, vm: Vm) -> None:
    """Somebody has the VM: what was held against it is over."""
    vm.pending = None
    vm.gone = None
    turn.state.disarm(vm, *timers.LOSS_TIMERS, timers.REMOVE)


def show_status(turn: Turn, vm: Vm, claim: Claim, *, guest_answered: bool) -> None:
    """The derived status of a VM whose owner says something alive, with the timers that belong to it (S5, S10)."""
    state = turn.state
    status = claim.status
    if status is None:
        return
    state.disarm(vm, *timers.RUN_TIMERS)
    if status is Status.POWERING_UP:
        if guest_answered:
            status = Status.UP
        else:
            state.arm(vm, timers.POWERING_UP, due_tick=state.clock.ticks + POWERING_UP_TICKS)
    elif status is Status.REBOOTING:
        state.arm(vm, timers.REBOOTING, due_tick=state.clock.ticks + REBOOTING_TICKS)
    vm.status = status


def end_run(turn: Turn, vm: Vm, status: Status, exit_: Exit, cause: Cause, *, observed: bool) -> None:
    """The owner no longer runs it. `observed`: it said so itself, with how; else the end is inferred.

    Whoever else may have it takes over. Only then is it over.
    """
    heir = find_heir(turn.state, vm, observed=observed)
    if heir is not None:
        succeed(turn, vm, heir)
        return
    pending, vm.pending = vm.pending, None
    turn.state.disarm(vm, *timers.LOSS_TIMERS, *timers.RUN_TIMERS)
    vm.status = status
    vm.exit = exit_
    vm.out_seen = 0
    turn.because(vm, cause)
    if pending is not None and pending.gone is not None:
        vm.gone = pending.gone
    consider_removal(turn, vm)


def find_heir(state: Partition, vm: Vm, *, observed: bool) -> Claim | None:
    """Another host that has the VM, or may have it: live ones first, of these the newest.

    A host that can not be asked counts as well. Only if the owner itself told the end does the word of a host not
    count that had lost this VM before and was not heard of since.
    """
    rivals = [claim for claim in vm.rivals() if word_of(claim) is not Word.POST_COPY]
    live = [claim for claim in rivals if state.reachable(claim.host)]
    if live:
        return max(live, key=_newest)
    if observed:
        rivals = [claim for claim in rivals if not (claim.lost and claim.seen < vm.owned_seen)]
    return max(rivals, key=_newest, default=None)


def _newest(claim: Claim) -> tuple[int, HostId]:
    return claim.seen, claim.host


def succeed(turn: Turn, vm: Vm, heir: Claim) -> None:
    """The heir owns it: in the same run if it came by migration, or is the source that handed it over just now."""
    if heir.incoming or heir.grace:
        hand_over(turn, vm, heir)
    else:
        adopt(turn, vm, heir)


def live_destination(state: Partition, vm: Vm) -> Claim | None:
    """Where a migration of this VM went: the named peer before others, timely before late, of these the newest."""
    peer = named_peer(vm)
    live = [
        claim
        for claim in vm.rivals()
        if claim.seen > vm.out_seen
        and state.reachable(claim.host)
        and word_of(claim) in (Word.RUNNING, Word.INCOMING, Word.PAUSED)
    ]

    def likelihood(claim: Claim) -> tuple[bool, bool, bool, tuple[int, HostId]]:
        return claim.host == peer, not state.hosts[claim.host].late, claim.incoming, _newest(claim)

    return max(live, key=likelihood, default=None)


def named_peer(vm: Vm) -> HostId | None:
    """The other side of the migration, where the owner named it."""
    claim = vm.owner_claim
    return None if claim is None or claim.peer is None else HostId(uuid_bytes(claim.peer))


def hand_over_to_silent(turn: Turn, vm: Vm) -> bool:
    """Hand over, as unknown, to the destination if that is a host that can not be asked now (O2); False if not."""
    state = turn.state
    peer = named_peer(vm)
    host = None if peer is None else state.hosts.get(peer)
    if host is not None and host.id != vm.owner and not state.reachable(host.id):
        claim = vm.claim_of(host.id)
        if claim is None or claim.ended or claim.status not in ALIVE:
            if claim is not None:
                state.drop_claim(vm, claim)
            hand_over_unheard(turn, vm, host)
        else:
            hand_over(turn, vm, claim)
        return True
    incoming = [claim for claim in vm.rivals() if claim.status is Status.MIGRATING_TO]
    newest = max(incoming, key=_newest, default=None)
    if newest is None or state.reachable(newest.host):
        return False
    hand_over(turn, vm, newest)
    return True


def is_held(vm: Vm) -> bool:
    """Its source ended, whoever claims it is the destination."""
    return vm.pending is not None and vm.pending.kind in (PendingKind.HANDING_OVER, PendingKind.MIGRATED_AWAY)
