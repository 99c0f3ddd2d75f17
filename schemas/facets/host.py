"""Facets of a host: `host_system`, `host_capacity`, `host_reachability`, and its claim about a storage domain."""

import msgspec

from schemas.ownership import Noted, Reported
from schemas.text import Name, Text


class HostSystem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the host is."""

    hostname: Reported[Name | None] = None
    os: Reported[Name | None] = None
    kernel: Reported[Name | None] = None
    hypervisor: Reported[Name | None] = None
    libvirt_version: Reported[Name | None] = None
    agent_version: Reported[Name | None] = None


class HostCapacity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the host can carry; use is a statistic."""

    cpu_model: Reported[Name | None] = None
    cpus: Reported[int | None] = None
    cpu_sockets: Reported[int | None] = None
    memory_bytes: Reported[int | None] = None


class HostReachability(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Does the agent reach its source (rule H6)?"""

    source_connected: Reported[bool]
    reason: Reported[Text | None] = None
    since: Noted[int | None] = None


class StorageClaim(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One host's word about one storage domain (rules §11)."""

    name: Reported[Name | None] = None
    type: Reported[Name | None] = None
    reachable: Reported[bool | None] = None
    reason: Reported[Text | None] = None
    capacity_bytes: Reported[int | None] = None
    last_check_at: Noted[int | None] = None
