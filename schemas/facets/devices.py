"""Facet `devices`: the virtual hardware, as a set sorted by alias (rule D1)."""

import msgspec

from schemas.ownership import Reported
from schemas.text import Name, Text


class Device(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One device of the live definition."""

    device_class: Name = msgspec.field(name="class")
    alias: Name
    address: Name | None = None
    model: Name | None = None
    backend: Text | None = None
    target: Name | None = None
    mac: Name | None = None
    serial: Name | None = None
    plugged: bool = True


class Devices(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All devices of the VM."""

    devices: Reported[list[Device]] = []
