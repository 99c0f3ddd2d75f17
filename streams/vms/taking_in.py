"""VMs that are known from elsewhere, when vm.state was lost: from PostgreSQL, a dump, what is left of vm.changes.

Every one begins a new incarnation, version 1, with what was last known of it, `unknown/rebuilding` until its host has
said everything again: nothing here says that a VM is down, and nothing says that it is up. Pure.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from schemas.change import Cause, Exit
from schemas.facets.run import Run
from schemas.ids import BootId, HostId, RunId, VmId
from schemas.observation import HostEvent
from schemas.status import Reachability, Status
from streams.vms import timers
from streams.vms.admission import take_run
from streams.vms.core import VmsCore
from streams.vms.emit import publish
from streams.vms.facets import NO_FACETS, RUN, SLOT_OF, MalformedFacet, pack, read
from streams.vms.hosts import on_event
from streams.vms.policy import POWERING_UP_TICKS, REBOOTING_TICKS, SPREAD_MOST_TICKS
from streams.vms.repairs import ask
from streams.vms.rows import GENERATION_BITS
from streams.vms.state import Claim, Host, Partition, Vm
from streams.vms.turn import Proof, Turn

_NO_RAW = bytes(8)
"""What the host sent, byte by byte, is not known: whatever it sends is looked at."""


class KnownHost(NamedTuple):
    """Where a host's reports are, and the boot it was last seen in."""

    host_id: HostId
    boot_id: BootId
    source: int
    """Partition of host.reports."""


class KnownVm(msgspec.Struct, frozen=True, kw_only=True):
    """What was last known of a VM. Times in ns; `facets`: canonical maps of its own facets by name."""

    vm_id: VmId
    incarnation: int
    version: int
    status: Status
    host_id: HostId | None
    ownership_epoch: int
    run_id: RunId | None
    exit: Exit | None
    observed_at: int
    detected_at: int
    facets: Mapping[str, bytes] = {}
    managed: Mapping[str, Any] = {}

    @property
    def order(self) -> tuple[int, int]:
        """What is higher is newer."""
        return self.incarnation, self.version


def doubt_hosts(core: VmsCore, hosts: Iterable[KnownHost], *, log: int, at: int) -> None:
    """Make these hosts known; what they have is in doubt until they have said everything again, which they are asked.

    `at`: when the rebuild was begun. They are asked one a second, each at its own moment, and no longer than ten
    minutes.
    """
    state = core.state
    listed = list(hosts)
    spread = min(len(listed), SPREAD_MOST_TICKS)
    for known in listed:
        host = state.hosts.get(known.host_id)
        if host is None:
            host = state.hosts[known.host_id] = Host(known.host_id, known.source, known.boot_id)
            host.reachability = Reachability.UNKNOWN
        turn = Turn(state, _beyond(state), 0, Proof(host.source, log, -1, at, at, host.id))
        on_event(turn, host, HostEvent.REBUILDING)
        publish(turn)
        ask(state, host.id, "rebuilding", spread_ticks=spread)
    core.touch()


def _beyond(state: Partition) -> int:
    """The place of a turn that no input caused: no row includes it yet."""
    return (state.generation << GENERATION_BITS) + state.applied + 1


def is_missing(state: Partition, known: KnownVm) -> bool:
    """The table lacks this VM, or has an older state of it. What was removed is no loss."""
    vm = state.vms.get(known.vm_id)
    if vm is None:
        return known.status is not Status.REMOVED
    return (vm.incarnation, vm.version) < known.order


def take_in(core: VmsCore, vms: Iterable[KnownVm], *, log: int, at: int) -> None:
    """Take in VMs that are missing; their hosts must be known and in doubt. `at`: when the rebuild was begun.

    Whoever repeats it with the same `at` gets the same changes.
    """
    state = core.state
    for known in vms:
        vm = _replace(state, known)
        if vm is not None:
            _take(state, vm, known, log=log, at=at)
    core.touch()


def _replace(state: Partition, known: KnownVm) -> Vm | None:
    """The VM at the beginning of its next incarnation; None when it is only remembered as removed."""
    old = state.vms.pop(known.vm_id, None)
    incarnation = known.incarnation
    if old is not None:
        incarnation = max(incarnation, old.incarnation)
        for host in state.hosts.values():
            host.claims.discard(old.id)
        for claim in old.claims:
            for slot, packed in enumerate(claim.facets):
                if packed is not None:
                    state.ended_facets[(old.id, claim.host, slot)] = None
    if known.status is Status.REMOVED:
        state.dirty_heads[known.vm_id] = None
        return None
    vm = state.vms[known.vm_id] = Vm(known.vm_id, incarnation + 1)
    return vm


def _take(state: Partition, vm: Vm, known: KnownVm, *, log: int, at: int) -> None:
    host = None if known.host_id is None else state.hosts[known.host_id]
    source = state.number if host is None else host.source
    proof = Proof(source, log, -1, at, known.observed_at, None if host is None else host.id)
    turn = Turn(state, _beyond(state), 0, proof)
    turn.open(vm)
    vm.status = known.status
    vm.epoch = known.ownership_epoch
    vm.run_id = known.run_id
    vm.exit = known.exit
    vm.detected_at = known.detected_at
    vm.managed = dict(known.managed) or None
    if host is not None:
        vm.owner = host.id
        _claim(state, vm, host, known.facets)
    if vm.status is Status.POWERING_UP:
        state.arm(vm, timers.POWERING_UP, due_tick=state.clock.ticks + POWERING_UP_TICKS)
    elif vm.status is Status.REBOOTING:
        state.arm(vm, timers.REBOOTING, due_tick=state.clock.ticks + REBOOTING_TICKS)
    turn.because(vm, Cause.REBUILT)
    publish(turn)


def _claim(state: Partition, vm: Vm, host: Host, facets: Mapping[str, bytes]) -> None:
    """The owner's claim, below anything that the host will say. Facets that can not be read are left for it to say."""
    claim = Claim(host.id, host.boot)
    packed = list(NO_FACETS)
    for name, value in facets.items():
        slot = SLOT_OF.get(name)
        if slot is None:
            continue
        try:
            facet = read(slot, value)
        except MalformedFacet:
            continue
        packed[slot] = pack(_NO_RAW, facet)
        state.dirty_facets[(vm.id, host.id, slot)] = None
        if slot == RUN and isinstance(facet, Run):
            take_run(claim, facet)
    if claim.status is None:
        claim.status = vm.status
    claim.facets = tuple(packed)
    state.add_claim(vm, claim)
