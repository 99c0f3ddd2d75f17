"""The facets: how a VM's and a host's reported state is split by how often it changes.

A facet is sent whole when it changes and stays an opaque byte string until someone needs to read it. Its bytes are
canonical: equal value, equal bytes.
"""

from enum import StrEnum

import msgspec

from schemas.facets.console import Console
from schemas.facets.devices import Devices
from schemas.facets.guest import Guest
from schemas.facets.host import HostCapacity, HostReachability, HostSystem
from schemas.facets.identity import Identity
from schemas.facets.jobs import Jobs
from schemas.facets.numa import Numa
from schemas.facets.run import Run
from schemas.facets.watchdog import Watchdog


class Facet(StrEnum):
    """Names of a VM's facets, as they stand in keys, reports and changes."""

    IDENTITY = "identity"
    RUN = "run"
    GUEST = "guest"
    CONSOLE = "console"
    DEVICES = "devices"
    JOBS = "jobs"
    NUMA = "numa"
    WATCHDOG = "watchdog"


class HostFacet(StrEnum):
    """Names of a host's facets."""

    SYSTEM = "host_system"
    CAPACITY = "host_capacity"
    REACHABILITY = "host_reachability"


VM_FACETS: dict[Facet, type[msgspec.Struct]] = {
    Facet.IDENTITY: Identity,
    Facet.RUN: Run,
    Facet.GUEST: Guest,
    Facet.CONSOLE: Console,
    Facet.DEVICES: Devices,
    Facet.JOBS: Jobs,
    Facet.NUMA: Numa,
    Facet.WATCHDOG: Watchdog,
}

HOST_FACETS: dict[HostFacet, type[msgspec.Struct]] = {
    HostFacet.SYSTEM: HostSystem,
    HostFacet.CAPACITY: HostCapacity,
    HostFacet.REACHABILITY: HostReachability,
}

FACET_LIMIT_BYTES = 64 * 1024
"""Largest facet; the agent truncates and marks before it computes the digest."""
