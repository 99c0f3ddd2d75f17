"""May a VM's status be believed now? A set of doubts, each with its own end; known is the empty set (rule H2b)."""

from typing import Any, Final

from schemas.change import Availability
from schemas.status import Believed, Doubt
from schemas.vm_state import PendingKind
from streams.vms.state import NO_DOUBT, Partition, Vm
from streams.vms.twins import WORD, twin_of

_ORDER: Final = {doubt: place for place, doubt in enumerate(Doubt)}

_OF_PENDING: Final = {
    PendingKind.ABSENCE: Doubt.JUDGING,
    PendingKind.NO_EXIT: Doubt.JUDGING,
    PendingKind.BOOT: Doubt.JUDGING,
    PendingKind.HANDING_OVER: Doubt.HANDING_OVER,
    PendingKind.MIGRATED_AWAY: Doubt.MIGRATED_AWAY,
}


_Availability: Final = twin_of(Availability)
_KNOWN: Final = WORD[Believed.KNOWN]
_CONFLICT: Final = WORD[Believed.CONFLICT]
_UNKNOWN: Final = WORD[Believed.UNKNOWN]


def doubts_of(state: Partition, vm: Vm) -> tuple[Doubt, ...]:
    """Why this VM's status is not known, in the order in which it is shown.

    The owner's host counts as long as it lists the VM; nothing is doubtful about a VM that nobody has.
    """
    doubts: frozenset[Doubt] = frozenset()
    claim = vm.owner_claim
    if claim is not None and not claim.ended:
        doubts = state.doubts_of_host(claim.host)
    if vm.pending is not None:
        doubts |= {_OF_PENDING[vm.pending.kind]}
    if vm.quarantined:
        doubts |= {Doubt.QUARANTINED}
    for other in vm.claims:
        if other.conflict:
            doubts |= {Doubt.CONFLICT}
    return tuple(sorted(doubts, key=_ORDER.__getitem__)) if doubts else NO_DOUBT


def is_known(state: Partition, vm: Vm) -> bool:
    """For the ownership table: believed, or in a conflict, which must not flip."""
    doubts = doubts_of(state, vm)
    return not doubts or Doubt.CONFLICT in doubts


def shown_availability(vm: Vm) -> Any:
    """The public form: a twin of `schemas.change.Availability`."""
    shown = _Availability()
    shown.since = vm.since
    if not vm.shown:
        shown.state = _KNOWN
        return shown
    shown.state = _CONFLICT if vm.shown[0] is Doubt.CONFLICT else _UNKNOWN
    shown.reason = vm.shown[0]
    shown.reasons = list(vm.shown)
    return shown
