"""The simulated fleet: the ground truth of every host and VM, and the few things that can happen to them.

Scripts (`scripts.py`) are made of these happenings. A happening marks what a host's agent would have to look at;
agents read it like a hypervisor. Not thread-safe: one thread owns a fleet.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import msgspec

from infra.runtime.errors import ConfigError
from producers.agent.clock import Clock, Instant
from producers.agent.snapshots import MAX_VMS_PER_HOST
from producers.agent.source import GoneView, HostIdentity, Listing, Reading, VmView
from producers.simulator import definitions
from schemas.facets import Facet, HostFacet
from schemas.facets.host import HostReachability
from schemas.facets.run import Run
from schemas.ids import BootId, HostId, MachineId, VmId, uuid_text
from schemas.status import ALIVE, ExitReason, ExitStatus, GoneReason, Status

Act = Callable[["Fleet"], None]

_WITHOUT_GUEST = frozenset({Status.STARTING, Status.MIGRATING_TO, Status.RESTORING})


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One moment of a script: what happens, so long after the step before it."""

    name: str
    after_seconds: float
    act: Act


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """A sequence of happenings; `vms` are left alone by random life meanwhile."""

    name: str
    vms: tuple[int, ...]
    steps: tuple[Step, ...]


@dataclass(kw_only=True, slots=True)
class SimulatedVm:
    """What belongs to a VM wherever it runs. `owner`: host that runs it or last did."""

    index: int
    vm_id: VmId
    owner: int
    plugged: tuple[int, ...] = ()
    lease: int = 0
    client: int = 0
    client_since: int | None = None
    open_jobs: tuple[int, ...] = ()
    guest_connected: bool = True
    guest_seen_at: int | None = None
    removed: bool = False
    exit: tuple[ExitStatus, ExitReason] | None = None
    """How the last run ended, where the host's own word does not say it."""


@dataclass(kw_only=True, slots=True)
class SimulatedHost:
    """One host: what its hypervisor would answer, and what its agent has not looked at yet."""

    index: int
    host_id: HostId
    machine_id: MachineId
    boot_id: BootId
    runs: dict[int, Run] = field(default_factory=dict)
    """VM index -> run facet of every VM that this host knows."""
    boots: int = 0
    powered: bool = True
    agent_running: bool = True
    agent_starts: int = 0
    farewell: bool = False
    """The agent stopped on purpose."""
    connected: bool = True
    """The agent reaches the hypervisor."""
    connected_since: int = 0
    processes: int = 0
    dirty: dict[int, Instant] = field(default_factory=dict)
    left: dict[int, tuple[GoneReason, Instant]] = field(default_factory=dict)
    facets_dirty: bool = False

    @property
    def identity(self) -> HostIdentity:
        """Who its agent says it is."""
        return HostIdentity(host_id=self.host_id, machine_id=self.machine_id, boot_id=self.boot_id)

    @property
    def reports(self) -> bool:
        """True while its agent runs."""
        return self.powered and self.agent_running


class Fleet:
    """Hosts and VMs of one seed. `started` False leaves every VM defined and down."""

    def __init__(self, *, hosts: int, vms: int, seed: int, clock: Clock, started: bool = True) -> None:
        if not 1 <= hosts <= 100_000 or not 0 <= vms <= hosts * MAX_VMS_PER_HOST:
            raise ConfigError(
                f"{vms} VMs on {hosts} hosts can not be simulated",
                where="simulator.hosts, simulator.vms",
                advice=f"at most {MAX_VMS_PER_HOST} VMs per host and 100,000 hosts",
            )
        self.seed = seed
        self.clock = clock
        self.now = clock.now()
        self.hosts = [self._new_host(index) for index in range(hosts)]
        self.vms: list[SimulatedVm] = []
        self.busy: set[int] = set()
        self.running_scripts = 0
        self.steps_done = 0
        self.stirred: set[int] = set()
        """Hosts whose agent has something to look at."""
        self._timeline: list[tuple[int, int, Act]] = []
        self._order = count()
        for index in range(vms):
            self._new_vm(index, index % hosts, started=started)

    def _new_host(self, index: int) -> SimulatedHost:
        return SimulatedHost(
            index=index,
            host_id=HostId(definitions.derived_id(self.seed, "host", index)),
            machine_id=MachineId(definitions.derived_id(self.seed, "machine", index)),
            boot_id=BootId(definitions.derived_id(self.seed, "boot", index, 0)),
            connected_since=self.now.wall_ns,
        )

    def _new_vm(self, index: int, host: int, *, started: bool) -> SimulatedVm:
        vm = SimulatedVm(index=index, vm_id=VmId(definitions.derived_id(self.seed, "vm", index)), owner=host)
        self.vms.append(vm)
        if started:
            vm.guest_seen_at = self.now.wall_ns
            self.hosts[host].runs[index] = self._fresh_run(self.hosts[host], Status.UP, "booted")
        else:
            self.hosts[host].runs[index] = Run(status=Status.DOWN, reason="unknown", since=self.now.wall_ns)
        return vm

    def _fresh_run(self, host: SimulatedHost, status: Status, reason: str, **fields: Any) -> Run:
        host.processes += 1
        at = self.now.wall_ns
        process_id = f"{uuid_text(host.boot_id)[:8]}/{host.processes}"
        return Run(status=status, reason=reason, since=at, process_id=process_id, started_at=at, **fields)

    def schedule(self, after_seconds: float, act: Act) -> None:
        """Let something happen later."""
        at = self.now.later(after_seconds).monotonic_ns
        heapq.heappush(self._timeline, (at, next(self._order), act))

    def next_due_ns(self) -> int | None:
        """Monotonic time of the next scheduled happening."""
        return self._timeline[0][0] if self._timeline else None

    def advance(self) -> None:
        """Let everything happen that is due by the clock; it happens at the moment the clock shows."""
        self.now = self.clock.now()
        while self._timeline and self._timeline[0][0] <= self.now.monotonic_ns:
            heapq.heappop(self._timeline)[2](self)

    def start(self, script: Script) -> None:
        """Begin a script; its first step is due at once if it has no delay."""
        self.now = self.clock.now()
        self.busy.update(script.vms)
        self.running_scripts += 1
        self._play(script, 0)

    def _play(self, script: Script, number: int) -> None:
        if number == len(script.steps):
            self.finish(script)
            return
        step = script.steps[number]

        def act(fleet: Fleet) -> None:
            fleet.perform(step)
            fleet._play(script, number + 1)

        self.schedule(step.after_seconds, act)

    def perform(self, step: Step) -> None:
        """Let one step happen now."""
        self.now = self.clock.now()
        step.act(self)
        self.steps_done += 1

    def finish(self, script: Script) -> None:
        """Give a script's VMs back to random life."""
        self.busy.difference_update(script.vms)
        self.running_scripts -= 1

    def touch(self, vm: int, host: int | None = None) -> None:
        """A hint for the agent that something about a VM may have changed; by default at its owner's host."""
        place = self.hosts[self.vms[vm].owner if host is None else host]
        place.dirty.setdefault(vm, self.now)
        self.stirred.add(place.index)

    def run_of(self, vm: int, host: int | None = None) -> Run | None:
        """What a host's hypervisor says of a VM; by default its owner's."""
        return self.hosts[self.vms[vm].owner if host is None else host].runs.get(vm)

    def begin(self, vm: int, host: int, status: Status, reason: str, **fields: Any) -> None:
        """A new process of the VM on this host."""
        place = self.hosts[host]
        place.runs[vm] = self._fresh_run(place, status, reason, **fields)
        place.left.pop(vm, None)
        self.touch(vm, host)

    def become(self, vm: int, host: int, status: Status, reason: str, **fields: Any) -> None:
        """The same process in another status; what belongs to the former one is cleared."""
        last = self.hosts[host].runs[vm]
        self.hosts[host].runs[vm] = Run(
            status=status,
            reason=reason,
            since=self.now.wall_ns,
            process_id=last.process_id,
            started_at=last.started_at,
            **fields,
        )
        self.touch(vm, host)

    def end(self, vm: int, host: int, status: Status, reason: str, exit_status: ExitStatus, why: ExitReason) -> None:
        """The process ended; the definition stays."""
        self.hosts[host].runs[vm] = Run(
            status=status, reason=reason, since=self.now.wall_ns, exit_status=exit_status, exit_reason=why
        )
        if self.vms[vm].owner == host and why is not ExitReason.MIGRATED:
            self._forget_run(self.vms[vm])
        self.touch(vm, host)

    def leave(self, vm: int, host: int, reason: GoneReason) -> None:
        """The VM is not on this host any more."""
        place = self.hosts[host]
        if place.runs.pop(vm, None) is not None:
            place.dirty.pop(vm, None)
            place.left[vm] = (reason, self.now)
            self.stirred.add(host)

    def _forget_run(self, vm: SimulatedVm) -> None:
        vm.client, vm.client_since, vm.open_jobs = 0, None, ()
        vm.guest_connected, vm.guest_seen_at = False, None
        vm.exit = None

    def hand_over(self, vm: int, host: int) -> None:
        """The VM now runs on this host."""
        record = self.vms[vm]
        record.owner = host
        record.client, record.client_since = 0, None

    def guest_answers(self, vm: int, connected: bool) -> None:
        """The guest agent came or went."""
        record = self.vms[vm]
        record.guest_connected = connected
        if connected:
            record.guest_seen_at = self.now.wall_ns
        self.touch(vm)

    def define(self, host: int) -> int:
        """A new VM, defined and down; returns its index."""
        vm = self._new_vm(len(self.vms), host, started=False)
        self.touch(vm.index, host)
        return vm.index

    def define_again(self, vm: int) -> None:
        """A removed VM is defined where it was last, under the same id; it never ran in this life."""
        record = self.vms[vm]
        record.removed = False
        self._forget_run(record)
        place = self.hosts[record.owner]
        place.runs[vm] = Run(status=Status.DOWN, reason="unknown", since=self.now.wall_ns)
        place.left.pop(vm, None)
        self.touch(vm, record.owner)

    def crash_host(self, host: int) -> None:
        """Power is gone: no farewell, no process survives."""
        place = self.hosts[host]
        place.powered = False
        place.dirty.clear()
        place.left.clear()
        self.stirred.add(host)

    def return_host(self, host: int) -> None:
        """The host boots again: its persistent VMs are shut off, incoming migrations never were."""
        place = self.hosts[host]
        place.powered, place.boots, place.processes = True, place.boots + 1, 0
        place.boot_id = BootId(definitions.derived_id(self.seed, "boot", host, place.boots))
        place.agent_running, place.agent_starts = True, place.agent_starts + 1
        for vm, run in list(place.runs.items()):
            if run.status is Status.MIGRATING_TO:
                del place.runs[vm]
            elif run.status in ALIVE:
                place.runs[vm] = Run(status=Status.DOWN, reason="unknown", since=self.now.wall_ns)
                if self.vms[vm].owner == host:
                    self._forget_run(self.vms[vm])
                    self.vms[vm].exit = (ExitStatus.ERROR, ExitReason.HOST_LOST)
        self.stirred.add(host)

    def set_agent(self, host: int, *, running: bool, farewell: bool = False) -> None:
        """Start or stop a host's agent; VMs do not notice."""
        place = self.hosts[host]
        place.agent_starts += running and not place.agent_running
        place.agent_running, place.farewell = running, farewell
        self.stirred.add(host)

    def set_connected(self, host: int, connected: bool) -> None:
        """The agent loses or regains its hypervisor; VMs do not notice."""
        place = self.hosts[host]
        place.connected, place.connected_since = connected, self.now.wall_ns
        place.facets_dirty = True
        self.stirred.add(host)

    def facets_of(self, vm: int, host: int) -> dict[Facet, msgspec.Struct]:
        """What this host's hypervisor answers about a VM, built on demand."""
        record, run = self.vms[vm], self.hosts[host].runs[vm]
        found: dict[Facet, msgspec.Struct] = {
            Facet.IDENTITY: definitions.identity(vm),
            Facet.RUN: run,
            Facet.DEVICES: definitions.devices(vm, record.plugged),
        }
        if run.status not in ALIVE:
            return found
        found[Facet.CONSOLE] = definitions.console(vm, host, record.client, record.client_since)
        if (cells := definitions.numa(vm)) is not None:
            found[Facet.NUMA] = cells
        if record.open_jobs or run.status is Status.UP:
            found[Facet.JOBS] = definitions.jobs(vm, record.open_jobs)
        if run.status not in _WITHOUT_GUEST:
            found[Facet.GUEST] = definitions.guest(
                vm, record.lease, connected=record.guest_connected, seen_at=record.guest_seen_at
            )
        return found

    def host_facets(self, host: int) -> dict[HostFacet, msgspec.Struct]:
        """What the agent says of its host."""
        place = self.hosts[host]
        reason = None if place.connected else "simulated: the hypervisor does not answer"
        return {
            HostFacet.SYSTEM: definitions.host_system(host),
            HostFacet.CAPACITY: definitions.host_capacity(host),
            HostFacet.REACHABILITY: HostReachability(
                source_connected=place.connected, reason=reason, since=place.connected_since
            ),
        }

    def listing(self, host: int) -> Listing:
        """All VMs of a host; takes its hints away, since it says everything they would lead to but why VMs left."""
        place, now = self.hosts[host], self.clock.now()
        place.dirty.clear()
        views = [VmView(vm_id=self.vms[vm].vm_id, facets=self.facets_of(vm, host)) for vm in place.runs]
        return Listing(vms=views, observed_at=now.wall_ns, observed_monotonic_ns=now.monotonic_ns)

    def readings(self, host: int) -> Sequence[Reading]:
        """What changed at a host since it was last asked, one reading per moment of change, oldest first."""
        place = self.hosts[host]
        moments: dict[Instant, Reading] = {}
        for vm, (reason, at) in place.left.items():
            _moment(moments, at).gone.append(GoneView(vm_id=self.vms[vm].vm_id, reason=reason))
        for vm, at in place.dirty.items():
            if vm in place.runs:
                _moment(moments, at).vms.append(VmView(vm_id=self.vms[vm].vm_id, facets=self.facets_of(vm, host)))
        place.left.clear()
        place.dirty.clear()
        return [moments[at] for at in sorted(moments)]


def _moment(moments: dict[Instant, Reading], at: Instant) -> Reading:
    if at not in moments:
        moments[at] = Reading(vms=[], gone=[], observed_at=at.wall_ns, observed_monotonic_ns=at.monotonic_ns)
    return moments[at]
