"""What an agent does with a source, without a Kafka: waits, reads what was hinted, lists when asked to, remembers."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from types import TracebackType
from typing import Self

from producers.agent.source import Hints, Listing, SourceUnavailable, VmView
from producers.libvirt import open_source
from schemas.facets import HostFacet
from schemas.facets.devices import Devices
from schemas.facets.host import HostReachability
from schemas.facets.identity import Identity
from schemas.facets.normal import fingerprint
from schemas.facets.run import Run
from schemas.ids import VmId
from schemas.status import GoneReason, Status

_TURN_SECONDS = 0.2


class Watcher:
    """Follows a source. ``runs`` has every run facet of a VM that differed from the one before, in order."""

    def __init__(self, uri: str) -> None:
        self.source = open_source(uri)
        self.runs: dict[VmId, list[Run]] = defaultdict(list)
        self.identities: dict[VmId, Identity] = {}
        self.devices: dict[VmId, Devices] = {}
        self.gone: dict[VmId, GoneReason] = {}
        self.hints: list[Hints] = []
        self.reachability: list[bool] = []

    def __enter__(self) -> Self:
        self.source.setup()
        self.until(lambda: self.connections, "the new connection asks for a listing")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.source.close()

    def turn(self) -> Hints:
        """Wait once, and do what the hints ask for."""
        hints = self.source.wait(_TURN_SECONDS)
        self.hints.append(hints)
        reachability = hints.facets.get(HostFacet.REACHABILITY)
        if isinstance(reachability, HostReachability):
            self.reachability.append(reachability.source_connected)
        try:
            if hints.relist:
                self.take(self.source.list())
            if hints.dirty:
                reading = self.source.read(hints.dirty)
                self._take_views(reading.vms)
                for view in reading.gone:
                    self.gone[view.vm_id] = view.reason
        except SourceUnavailable:
            pass  # the next connection asks for a listing
        return hints

    def take(self, listing: Listing) -> None:
        """Remember a listing; VMs that an earlier one had and this one has not are gone, nobody knows why."""
        self._take_views(listing.vms)
        listed = {view.vm_id for view in listing.vms}
        for vm_id in self.runs.keys() - listed - self.gone.keys():
            self.gone[vm_id] = GoneReason.ABSENT

    def until(self, true: Callable[[], object], what: str, timeout_seconds: float = 15.0) -> None:
        """Follow the source until ``true()``."""
        deadline = time.monotonic() + timeout_seconds
        while not true():
            if time.monotonic() > deadline:
                raise AssertionError(f"after {timeout_seconds:.0f} s still not: {what}; told: {dict(self.runs)}")
            self.turn()

    def until_status(self, vm_id: VmId, status: Status) -> Run:
        """Follow the source until it says this status; returns that run facet."""
        self.until(lambda: vm_id in self.runs and self.last(vm_id).status is status, f"{vm_id.hex()} is {status}")
        return self.last(vm_id)

    def until_gone(self, vm_id: VmId) -> GoneReason:
        """Follow the source until the VM is gone; returns why."""
        self.until(lambda: vm_id in self.gone, f"{vm_id.hex()} is gone")
        return self.gone[vm_id]

    def last(self, vm_id: VmId) -> Run:
        """The newest run facet of a VM."""
        return self.runs[vm_id][-1]

    def statuses(self, vm_id: VmId) -> list[Status]:
        """All statuses told of a VM, in order."""
        return [run.status for run in self.runs[vm_id]]

    @property
    def connections(self) -> int:
        """How many connections asked for a listing (no other reason for one comes up here)."""
        return sum(hints.relist for hints in self.hints)

    def _take_views(self, views: list[VmView]) -> None:
        for view in views:
            for facet in view.facets.values():
                if isinstance(facet, Run):
                    told = self.runs[view.vm_id]
                    if not told or fingerprint(told[-1]) != fingerprint(facet):
                        told.append(facet)
                elif isinstance(facet, Identity):
                    self.identities[view.vm_id] = facet
                elif isinstance(facet, Devices):
                    self.devices[view.vm_id] = facet
