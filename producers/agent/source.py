"""What an agent watches: one host's hypervisor, real or simulated, behind one interface.

Events are hints, state is the truth: `wait` only says which VMs may have changed, `read` and `list` say how they are.
"""

from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from schemas.facets import Facet, HostFacet
from schemas.ids import BootId, HostId, MachineId, VmId
from schemas.status import GoneReason


class SourceUnavailable(Exception):
    """The hypervisor can not be asked now. Nothing may be concluded about any VM; try again later."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HostIdentity:
    """Who speaks. `boot_id` changes with every boot of the host and with nothing else."""

    host_id: HostId
    machine_id: MachineId
    boot_id: BootId


@dataclass(frozen=True, kw_only=True, slots=True)
class VmView:
    """A VM as it is now. Facets that could not be read are left out (left out means unchanged, never empty)."""

    vm_id: VmId
    facets: dict[Facet, msgspec.Struct]


@dataclass(frozen=True, kw_only=True, slots=True)
class GoneView:
    """A VM that is not on this host any more, and why."""

    vm_id: VmId
    reason: GoneReason


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """A complete, successful listing: a VM not in it is not on this host. Clocks were read before the first call."""

    vms: list[VmView]
    observed_at: int
    observed_monotonic_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Answer of `read`: the VMs asked for, as they are or gone. Clocks were read before the first call."""

    vms: list[VmView]
    gone: list[GoneView]
    observed_at: int
    observed_monotonic_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Hints:
    """What may have changed since the last `wait`."""

    dirty: frozenset[VmId] = frozenset()
    host: bool = False
    """Host facets may have changed."""
    relist: bool = False
    """Hints were lost or the connection is new: list everything."""
    facets: dict[HostFacet, msgspec.Struct] = field(default_factory=dict)


class Source(Protocol):
    """One host. `wait` may be called from another thread than the rest; all other calls come from one thread."""

    def setup(self) -> None:
        """Connect; raises SourceUnavailable, may be retried."""
        ...

    def identity(self) -> HostIdentity:
        """Valid after the first successful `setup`."""
        ...

    def wait(self, timeout_seconds: float) -> Hints:
        """Block until something may have changed, coalescing bursts, or until the time is over (empty hints)."""
        ...

    def read(self, vm_ids: frozenset[VmId]) -> Reading:
        """The truth about these VMs; raises SourceUnavailable."""
        ...

    def list(self) -> Listing:
        """The truth about all VMs, running or only defined; raises SourceUnavailable."""
        ...

    def host_facets(self) -> dict[HostFacet, msgspec.Struct]:
        """Facets of the host; never raises: an unreachable source is told by HostReachability."""
        ...

    def close(self) -> None:
        """Give everything back; safe to call twice."""
        ...
