"""HostChange and HostState: the public view of hosts (`host.changes`, `host.state`, key host_id).

host.state follows every change and, for `last_report_at`, at most once a minute per host; heartbeats alone reach
neither topic.
"""

from typing import ClassVar

import msgspec

from schemas.change import Cause, Evidence, FacetChange
from schemas.codec import Record, SchemaVersion
from schemas.ownership import Derived
from schemas.status import Reachability


class HostReachabilityState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of the host now."""

    state: Reachability
    reason: str | None = None
    since: int = 0
    mass: bool = False


class HostChange(Record, frozen=True, kw_only=True):
    """One change of one host; identity and order as for VMs."""

    SCHEMA: ClassVar[SchemaVersion] = SchemaVersion(record="HostChange", major=1, minor=0)
    PUBLIC: ClassVar[bool] = True

    host_id: str
    incarnation: int
    version: int
    change_id: str
    observed_at: int
    detected_at: int
    cause: Cause
    reachability: Derived[HostReachabilityState]
    confirmed: Derived[bool]
    flags: Derived[list[str]]
    """Sorted: agent_flapping, clock_skewed, digest_mismatch."""
    machine_id: str
    boot_id: str
    agent_epoch: str
    facets: dict[str, FacetChange]
    previous_digest: int
    state_digest: int
    evidence: Evidence
    rules_version: int


class HostState(Record, frozen=True, kw_only=True):
    """The host now."""

    SCHEMA: ClassVar[SchemaVersion] = SchemaVersion(record="HostState", major=1, minor=0)
    PUBLIC: ClassVar[bool] = True

    host_id: str
    incarnation: int
    version: int
    reachability: HostReachabilityState
    confirmed: bool
    flags: list[str]
    machine_id: str
    boot_id: str
    agent_epoch: str
    vm_count: int
    last_report_at: int
    detected_at: int
    state_digest: int
    facets: dict[str, msgspec.Raw]
