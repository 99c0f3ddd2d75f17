"""One simulated host behind the interface that real hypervisors have: the simulator's `Source`."""

import threading
import time

import msgspec

from producers.agent.source import GoneView, Hints, HostIdentity, Listing, Reading, SourceUnavailable, VmView
from producers.simulator.fleet import Fleet, SimulatedHost
from schemas.facets import HostFacet
from schemas.ids import VmId
from schemas.status import GoneReason


class SimulatedSource:
    """Host `host` of a fleet. Whoever else acts on the fleet holds `guard`, and notifies it afterwards."""

    def __init__(self, fleet: Fleet, host: int, guard: threading.Condition) -> None:
        self._fleet = fleet
        self._host = host
        self._guard = guard
        self._left: dict[VmId, GoneReason] = {}
        self._told_connected = True

    def setup(self) -> None:
        """Connect; raises SourceUnavailable while the simulated hypervisor is away."""
        with self._guard:
            self._reachable()

    def identity(self) -> HostIdentity:
        """Who speaks."""
        with self._guard:
            return self._fleet.hosts[self._host].identity

    def wait(self, timeout_seconds: float) -> Hints:
        """Block until something may have changed; the fleet's scheduled happenings take place meanwhile."""
        deadline = time.monotonic() + timeout_seconds
        with self._guard:
            while True:
                self._fleet.advance()
                hints = self._hints(self._fleet.hosts[self._host])
                left = deadline - time.monotonic()
                if hints is not None or left <= 0:
                    return hints or Hints()
                due = self._fleet.next_due_ns()
                until_due = left if due is None else (due - self._fleet.clock.now().monotonic_ns) / 1e9
                self._guard.wait(max(0.001, min(left, until_due)))

    def _hints(self, host: SimulatedHost) -> Hints | None:
        if not host.connected and self._told_connected:
            self._told_connected = False
            return Hints(host=True)
        if not host.connected or not (host.dirty or host.left or host.facets_dirty):
            return None
        self._left.update({self._fleet.vms[vm].vm_id: reason for vm, (reason, _) in host.left.items()})
        dirty = frozenset(self._fleet.vms[vm].vm_id for vm in (*host.dirty, *host.left))
        hints = Hints(dirty=dirty, host=host.facets_dirty)
        host.dirty.clear()
        host.left.clear()
        host.facets_dirty = False
        return hints

    def read(self, vm_ids: frozenset[VmId]) -> Reading:
        """The truth about these VMs; raises SourceUnavailable."""
        with self._guard:
            host = self._reachable()
            now = self._fleet.clock.now()
            known = {self._fleet.vms[vm].vm_id: vm for vm in host.runs}
            views = [
                VmView(vm_id=vm_id, facets=self._fleet.facets_of(known[vm_id], self._host))
                for vm_id in sorted(vm_ids)
                if vm_id in known
            ]
            gone = [
                GoneView(vm_id=vm_id, reason=self._left.pop(vm_id, GoneReason.ABSENT))
                for vm_id in sorted(vm_ids)
                if vm_id not in known
            ]
            return Reading(vms=views, gone=gone, observed_at=now.wall_ns, observed_monotonic_ns=now.monotonic_ns)

    def list(self) -> Listing:
        """The truth about all VMs; raises SourceUnavailable."""
        with self._guard:
            self._reachable()
            return self._fleet.listing(self._host)

    def host_facets(self) -> dict[HostFacet, msgspec.Struct]:
        """Facets of the host."""
        with self._guard:
            return self._fleet.host_facets(self._host)

    def close(self) -> None:
        """Nothing is held."""

    def _reachable(self) -> SimulatedHost:
        host = self._fleet.hosts[self._host]
        if not host.connected or not host.powered:
            raise SourceUnavailable(f"simulated host {self._host} does not answer")
        self._told_connected = True
        return host
