"""What one host's agent has told since its epoch began: the state both sides agree on, its digest, and what differs.

Pure: readings come in as data, reports go out as records, time is an argument. A facet is published only when its
normal form differs from what was last published, so the digest always covers bytes that really travelled.
"""

from collections.abc import Iterator, Mapping

import msgspec

from producers.agent.clock import Instant
from producers.agent.rendering import Rendered, UnfitFacet, parse, render
from producers.agent.source import HostIdentity, VmView
from schemas.facets import VM_FACETS, Facet
from schemas.facets.run import Run
from schemas.fingerprints import NO_VM, U64, low64, raw_fingerprint, storage_facet
from schemas.ids import AgentEpoch, VmId
from schemas.report import Changes, Farewell, HostReport, SnapshotPart, VmFacets
from schemas.status import ENDED

RUN_FACETS = (Facet.GUEST, Facet.CONSOLE, Facet.JOBS, Facet.NUMA)
"""Facets that belong to a process: they do not outlive it (rule D5)."""

_MICROSECOND_NS = 1_000
_EMPTY = {facet: render(VM_FACETS[facet]()) for facet in RUN_FACETS}


class AgentState:
    """Everything published in one epoch of one host: facets by VM, host facets, storage claims, count and digest.

    Not thread-safe; its owner locks. Memory: the published bytes, some 2 KB per VM.
    """

    def __init__(self, identity: HostIdentity, epoch: AgentEpoch) -> None:
        self.identity = identity
        self.epoch = epoch
        self.seq = 0
        self.vms: dict[VmId, dict[Facet, Rendered]] = {}
        self.host: dict[str, Rendered] = {}
        self.storage: dict[str, Rendered] = {}
        self.digest = 0
        self.unfit = 0
        """Facets left out because no reader could have accepted them."""
        self.cut: dict[str, int] = {}
        """Facet name -> how often one was cut to its limits."""

    @property
    def vm_count(self) -> int:
        """VMs on this host, running or only defined."""
        return len(self.vms)

    @property
    def opened(self) -> bool:
        """True once the first report of the epoch was built."""
        return self.seq > 0

    def difference(self, view: VmView, basis: Mapping[Facet, Rendered] | None = None) -> dict[Facet, Rendered]:
        """Facets of the view that differ from what was published (or from `basis`, where given).

        A facet that the view leaves out is unchanged, except that facets of a run end with their process: those are
        published empty, so that the same value in the next run is a change again.
        """
        known = self.vms.get(view.vm_id, {}) if basis is None else basis
        changed: dict[Facet, Rendered] = {}
        for facet, value in view.facets.items():
            if (rendered := self._render(value, known.get(facet))) is not None:
                changed[facet] = rendered
                if rendered.cut:
                    self.cut[facet.value] = self.cut.get(facet.value, 0) + 1
        if Facet.RUN in changed and process_ended(view.facets[Facet.RUN], known.get(Facet.RUN)):
            for facet in RUN_FACETS:
                empty = _EMPTY[facet]
                last = known.get(facet)
                if facet not in view.facets and empty is not None and last is not None and last.normal != empty.normal:
                    changed[facet] = empty
        return changed

    def _render(self, value: msgspec.Struct, last: Rendered | None) -> Rendered | None:
        try:
            return render(value, last)
        except UnfitFacet:
            self.unfit += 1
            return None

    def publish(self, vm_id: VmId, facets: Mapping[Facet, Rendered]) -> VmFacets:
        """Take these facets of a VM as told; returns how they travel."""
        known = self.vms.setdefault(vm_id, {})
        for facet, rendered in facets.items():
            self._count(vm_id, facet.value, known.get(facet), rendered)
            known[facet] = rendered
        return VmFacets(vm_id=vm_id, facets={facet.value: rendered.data for facet, rendered in facets.items()})

    def remove(self, vm_id: VmId) -> bool:
        """Take a VM as told gone; False when it was not there."""
        known = self.vms.pop(vm_id, None)
        if known is None:
            return False
        for facet, rendered in known.items():
            self._count(vm_id, facet.value, rendered, None)
        return True

    def publish_host(self, facets: Mapping[str, Rendered]) -> dict[str, bytes]:
        """Take these host facets as told; returns how they travel."""
        for name, rendered in facets.items():
            self._count(NO_VM, name, self.host.get(name), rendered)
            self.host[name] = rendered
        return {name: rendered.data for name, rendered in facets.items()}

    def publish_storage(self, claims: Mapping[str, Rendered]) -> dict[str, bytes]:
        """Take these storage claims (domain id text -> claim) as told; returns how they travel."""
        for domain, rendered in claims.items():
            self._count(NO_VM, storage_facet(domain), self.storage.get(domain), rendered)
            self.storage[domain] = rendered
        return {domain: rendered.data for domain, rendered in claims.items()}

    def remove_storage(self, domain: str) -> bool:
        """Take a storage domain as not claimed any more; False when it was not."""
        known = self.storage.pop(domain, None)
        if known is not None:
            self._count(NO_VM, storage_facet(domain), known, None)
        return known is not None

    def _count(self, vm_id: bytes, facet: str, old: Rendered | None, new: Rendered | None) -> None:
        if old is not None:
            self.digest -= low64(raw_fingerprint(vm_id, facet, old.data))
        if new is not None:
            self.digest += low64(raw_fingerprint(vm_id, facet, new.data))
        self.digest &= U64

    def whole(self, vm_id: VmId) -> VmFacets:
        """All facets of a published VM, as they travelled."""
        return VmFacets(vm_id=vm_id, facets={facet.value: rendered.data for facet, rendered in self.vms[vm_id].items()})

    def seal(self, body: Changes | SnapshotPart | Farewell, *, observed: Instant, sent: Instant) -> HostReport:
        """Number a body whose content is published: the report that must be sent next, before any other is sealed."""
        self.seq += 1
        return HostReport(
            host_id=self.identity.host_id,
            machine_id=self.identity.machine_id,
            boot_id=self.identity.boot_id,
            agent_epoch=self.epoch,
            seq=self.seq,
            observed_at=_whole_microseconds(observed.wall_ns),
            observed_monotonic_ns=observed.monotonic_ns,
            sent_at=_whole_microseconds(sent.wall_ns),
            sent_monotonic_ns=sent.monotonic_ns,
            vm_count=self.vm_count,
            digest=self.digest,
            body=body,
        )

    def succeed(self, epoch: AgentEpoch) -> "AgentState":
        """A new epoch that begins with the same knowledge and has told nobody yet. This one must not be used again."""
        heir = AgentState(self.identity, epoch)
        heir.vms, heir.host, heir.storage = self.vms, self.host, self.storage
        heir.digest, heir.unfit, heir.cut = self.digest, self.unfit, self.cut
        return heir

    def sizes(self) -> Iterator[tuple[VmId, int]]:
        """Every VM with the bytes it takes in a snapshot part, bounded from above."""
        for vm_id, facets in self.vms.items():
            yield vm_id, vm_bytes(facets)


def vm_bytes(facets: Mapping[Facet, Rendered]) -> int:
    """Upper bound of what a VM with these facets takes in a report."""
    return 48 + sum(len(rendered.data) + 20 for rendered in facets.values())


def _whole_microseconds(wall_ns: int) -> int:
    return wall_ns - wall_ns % _MICROSECOND_NS


def tells_of_an_end(run: Rendered | None) -> bool:
    """True when this run facet says that the VM does not run any more."""
    facet = None if run is None else parse(run.data, Run)
    return isinstance(facet, Run) and facet.status in ENDED


def process_ended(now: msgspec.Struct | None, last: Rendered | None) -> bool:
    """True when the process that an earlier run facet told of is not the one running now."""
    if not isinstance(now, Run) or last is None:
        return False
    if now.status in ENDED:
        return True
    before = parse(last.data, Run)
    if not isinstance(before, Run) or before.process_id is None or now.process_id is None:
        return False
    return before.process_id != now.process_id
