"""Small values for the agent's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count

import msgspec

from producers.agent.clock import Instant
from producers.agent.source import GoneView, HostIdentity, Listing, Reading, VmView
from schemas.facets import Facet
from schemas.facets.identity import Identity
from schemas.facets.run import Run
from schemas.ids import BootId, HostId, MachineId, VmId
from schemas.status import GoneReason, Status

IDENTITY = HostIdentity(host_id=HostId(b"h" * 16), machine_id=MachineId(b"m" * 16), boot_id=BootId(b"b" * 16))
START = Instant(1_700_000_000_000_000_000, 1_000_000_000)


def ids() -> Callable[[], bytes]:
    """A source of ids that are all different and always the same."""
    numbers = count(1)
    return lambda: next(numbers).to_bytes(16, "big")


def vm_id(number: int) -> VmId:
    return VmId(number.to_bytes(16, "big"))


def up(number: int, *, name: str = "a", **facets: msgspec.Struct) -> VmView:
    """A running VM with identity and run, and further facets by name."""
    more = {Facet(facet): value for facet, value in facets.items()}
    base: dict[Facet, msgspec.Struct] = {
        Facet.IDENTITY: Identity(name=name),
        Facet.RUN: Run(status=Status.UP, process_id="1"),
    }
    return VmView(vm_id=vm_id(number), facets={**base, **more})


def reading(*views: VmView, gone: Iterable[tuple[int, GoneReason]] = (), at: Instant = START) -> Reading:
    left = [GoneView(vm_id=vm_id(number), reason=reason) for number, reason in gone]
    return Reading(vms=list(views), gone=left, observed_at=at.wall_ns, observed_monotonic_ns=at.monotonic_ns)


def listing(*views: VmView, at: Instant = START) -> Listing:
    return Listing(vms=list(views), observed_at=at.wall_ns, observed_monotonic_ns=at.monotonic_ns)
