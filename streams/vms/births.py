"""How a row begins: an unknown VM id (A6), or a `removed` one that somebody has again (A7)."""

from schemas.change import Cause
from schemas.ids import VmId
from schemas.observation import VmObservation
from streams.vms.admission import admit, sent_facets
from streams.vms.facets import IDENTITY
from streams.vms.owner import exit_of
from streams.vms.repairs import ask_once
from streams.vms.state import Claim, Host, Vm
from streams.vms.succession import adopt
from streams.vms.turn import UNBORN, Turn


def birth(turn: Turn, vm_id: VmId, host: Host, observation: VmObservation) -> tuple[Vm, Claim] | None:
    """A new row, if the host says what the VM does. None if that can not be read, or the VM is gone already.

    Facets that came while no row could be made are lost to us, so a row without identity asks for all of them.
    """
    state, boot = turn.state, turn.proof.boot
    if not observation.facets or boot is None:
        return None
    vm = Vm(vm_id, turn.proof.appended_at)
    claim = Claim(host.id, host.boot if host.boot == boot else boot)
    state.vms[vm_id] = vm
    state.add_claim(vm, claim)
    news = admit(turn, vm, claim, host, observation, sent_facets(turn, None, observation))
    if claim.status is None:
        _unmake(turn, vm, claim)
        ask_once(turn, host, "no_run_facet")
        return None
    turn.open(vm)
    if claim.facets[IDENTITY] is None:
        ask_once(turn, host, "no_identity_facet")
    _begin(turn, vm, claim)
    if not claim.alive and news.run is not None:
        vm.exit = exit_of(news.run)
    return vm, claim


def _unmake(turn: Turn, vm: Vm, claim: Claim) -> None:
    state = turn.state
    state.unlist_claim(vm, claim)
    for slot in range(len(claim.facets)):
        state.dirty_facets.pop((vm.id, claim.host, slot), None)
    del state.vms[vm.id]


def _begin(turn: Turn, vm: Vm, claim: Claim) -> None:
    """Without an owner the table adopts whatever is there (O8)."""
    if claim.alive:
        adopt(turn, vm, claim)
    else:
        vm.owner = claim.host
        vm.epoch += 1
        vm.owned_seen = turn.seen
        if claim.status is not None:
            vm.status = claim.status
    turn.because(vm, Cause.CREATED)


def reborn(turn: Turn, vm: Vm, claim: Claim) -> None:
    """A new incarnation of a `removed` row: versions from 1, the owner's epoch goes on, managed fields stay."""
    state = turn.state
    vm.incarnation = max(turn.proof.appended_at, vm.incarnation + 1)
    vm.version = 0
    vm.digest = 0
    vm.run_id = None
    vm.exit = None
    vm.gone = None
    vm.out_seen = 0
    vm.timers = ()
    turn.opened[vm.id] = UNBORN
    for other in list(vm.claims):
        if other.ended and other is not claim:
            state.drop_claim(vm, other)
    _begin(turn, vm, claim)


def on_removed(turn: Turn, vm: Vm, claim: Claim, host: Host, *, first_claim: bool) -> None:
    """Evidence for a `removed` row: of a host that had it, or of another with another process (A7).

    What is late or unconfirmed may not count now; it is judged again when its host no longer is.
    """
    if claim.status is None:
        return
    old = {other.process_id for other in vm.claims if other is not claim and other.process_id is not None}
    if not first_claim or (host.confirmed and not host.late and claim.process_id not in old):
        reborn(turn, vm, claim)
