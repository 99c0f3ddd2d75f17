"""What is known of a fleet from all places that still know something; of each VM and host the newest. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.change import FacetChange
from schemas.host_change import HostChange
from schemas.ids import AgentEpoch, BootId, HostId, MachineId, RunId, VmId, uuid_bytes
from schemas.vm_change import VmChange
from streams.hosts.taking_in import KnownHost
from streams.vms.taking_in import KnownVm

NO_LOG = 0


class Known:
    """Collects; whoever is higher in (incarnation, version) wins."""

    def __init__(self) -> None:
        self.vms: dict[VmId, KnownVm] = {}
        self.hosts: dict[HostId, KnownHost] = {}
        self.log = NO_LOG
        """Highest generation of host.reports that any evidence names."""

    def add_vm(self, vm: KnownVm) -> None:
        """Take a VM unless a newer state of it is known."""
        known = self.vms.get(vm.vm_id)
        if known is None or known.order < vm.order:
            self.vms[vm.vm_id] = vm

    def add_host(self, host: KnownHost) -> None:
        """Take a host unless a newer state of it is known."""
        known = self.hosts.get(host.host_id)
        if known is None or known.order < host.order:
            self.hosts[host.host_id] = host

    def follow_vm(self, change: VmChange) -> None:
        """Apply a change that no place above has heard of yet."""
        vm_id = VmId(uuid_bytes(change.vm_id))
        known = self.vms.get(vm_id)
        self.log = max(self.log, change.evidence.log)
        if known is not None and known.order >= (change.incarnation, change.version):
            return
        goes_on = known is not None and known.incarnation == change.incarnation
        before = known.facets if known is not None and goes_on else {}
        managed = known.managed if known is not None else {}
        self.vms[vm_id] = KnownVm(
            vm_id=vm_id,
            incarnation=change.incarnation,
            version=change.version,
            status=change.status,
            host_id=None if change.host_id is None else HostId(uuid_bytes(change.host_id)),
            ownership_epoch=change.ownership_epoch,
            run_id=None if change.run_id is None else RunId(uuid_bytes(change.run_id)),
            exit=change.exit,
            observed_at=change.observed_at,
            detected_at=change.detected_at,
            facets=_after(before, change.facets),
            managed={**managed, **(change.managed or {})},
        )

    def follow_host(self, change: HostChange) -> None:
        """The same of a host."""
        host_id = HostId(uuid_bytes(change.host_id))
        known = self.hosts.get(host_id)
        self.log = max(self.log, change.evidence.log)
        if known is not None and known.order >= (change.incarnation, change.version):
            return
        goes_on = known is not None and known.incarnation == change.incarnation
        before = known.facets if known is not None and goes_on else {}
        self.hosts[host_id] = KnownHost(
            host_id=host_id,
            machine_id=MachineId(uuid_bytes(change.machine_id)),
            boot_id=BootId(uuid_bytes(change.boot_id)),
            agent_epoch=AgentEpoch(uuid_bytes(change.agent_epoch)),
            incarnation=change.incarnation,
            version=change.version,
            reachability=change.reachability.state,
            facets=_after(before, change.facets),
        )


def _after(before: Mapping[str, bytes], changed: Mapping[str, FacetChange]) -> dict[str, bytes]:
    after = {name: value for name, value in before.items() if name not in changed}
    after.update({name: bytes(facet.after) for name, facet in changed.items() if not facet.cleared})
    return after
