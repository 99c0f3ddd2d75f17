"""Facet `numa`: guest cells and vCPU pinning, known at start."""

import msgspec

from schemas.ownership import Reported
from schemas.text import Name


class NumaCell(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One NUMA cell that the guest sees."""

    id: int
    memory_bytes: int | None = None
    vcpus: list[int] = []


class VcpuPin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Host CPUs on which one vCPU may run."""

    vcpu: int
    cpus: Name


class Numa(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Cells sorted by id, pinning sorted by vCPU."""

    cells: Reported[list[NumaCell]] = []
    pinning: Reported[list[VcpuPin]] = []
