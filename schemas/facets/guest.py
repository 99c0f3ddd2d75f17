"""Facet `guest`: what the guest agent says."""

import msgspec

from schemas.ownership import Noted, Reported
from schemas.text import Name


class GuestOs(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Operating system inside the VM."""

    name: Name | None = None
    version: Name | None = None
    kernel: Name | None = None
    arch: Name | None = None


class GuestNic(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One interface as the guest sees it; addresses sorted."""

    name: Name | None = None
    mac: Name | None = None
    ipv4: list[str] = []
    ipv6: list[str] = []


class Guest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Guest information; the last known values stay with `stale` while the agent is away (rule D4)."""

    agent_connected: Reported[bool | None] = None
    fqdn: Reported[Name | None] = None
    os: Reported[GuestOs | None] = None
    timezone: Reported[Name | None] = None
    session: Reported[Name | None] = None
    users: Reported[list[Name]] = []
    nics: Reported[list[GuestNic]] = []
    ips_as_of: Noted[int | None] = None
    stale: Reported[bool] = False
