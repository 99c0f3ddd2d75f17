"""Facet `identity`: what the VM is; changes rarely."""

import msgspec

from schemas.ownership import Reported
from schemas.text import Name, Text


class Identity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Definition of a VM as its host holds it; None is unknown."""

    name: Reported[Name | None] = None
    cluster: Reported[Name | None] = None
    tags: Reported[dict[str, Text]] = {}
    vcpus: Reported[int | None] = None
    vcpus_max: Reported[int | None] = None
    memory_bytes: Reported[int | None] = None
    memory_max_bytes: Reported[int | None] = None
    machine: Reported[Name | None] = None
    persistent: Reported[bool | None] = None
