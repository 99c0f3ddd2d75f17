"""What an agent has still to say: coalesced while nothing can be sent, built and numbered at the moment of sending.

Per VM the latest value of each facet waits, and before it, where the VM left in between, how its run ended and why it
left. So memory is bounded by the number of VMs however long Kafka is away, and sequence numbers have no holes.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from producers.agent.clock import Instant
from producers.agent.core import RUN_FACETS, AgentState, process_ended, tells_of_an_end, vm_bytes
from producers.agent.rendering import Rendered, UnfitFacet, render
from producers.agent.snapshots import LIMIT_BYTES, Asked, PartTooLarge, Plan, build_part, plan
from producers.agent.source import Listing, Reading, VmView
from schemas.facets import Facet, HostFacet
from schemas.facets.host import StorageClaim
from schemas.ids import AgentEpoch, SnapshotId, VmId
from schemas.report import MAX_VMS_PER_REPORT, Changes, Farewell, Gone, HostReport, VmFacets
from schemas.status import GoneReason

WINDOW_NS = 1_000_000_000
"""Observations further apart go into separate reports, since a report has one `observed_at`, that of its oldest."""

_GONE_BYTES = 64


@dataclass(kw_only=True, slots=True)
class _Waiting:
    """What is to be said of one VM: how its run ended, then that it left, then its facets now."""

    observed: Instant
    last_words: dict[Facet, Rendered] = field(default_factory=dict)
    gone: GoneReason | None = None
    facets: dict[Facet, Rendered] = field(default_factory=dict)


@dataclass(kw_only=True, slots=True)
class OutgoingCounts:
    """Counted since the start, over all epochs."""

    facets: int = 0
    gone: int = 0
    coalesced: int = 0
    """Facet values that never travelled, because a later one overtook them."""
    change_reports: int = 0
    heartbeats: int = 0
    first_snapshots: int = 0
    """Snapshots that began an epoch."""
    asked_snapshots: int = 0
    snapshot_parts: int = 0
    new_epochs: int = 0
    """Epochs begun because a report of the one before was lost."""


class Outgoing:
    """One host's unsent observations. Not thread-safe; its owner locks. `new_id` gives 16 random bytes."""

    def __init__(self, state: AgentState, new_id: Callable[[], bytes]) -> None:
        self.state = state
        self.counts = OutgoingCounts()
        self._new_id = new_id
        self._vms: OrderedDict[VmId, _Waiting] = OrderedDict()
        self._host: dict[str, Rendered] = {}
        self._storage: dict[str, Rendered] = {}
        self._storage_gone: set[str] = set()
        self._host_observed: Instant | None = None
        self._plan: Plan | None = None
        self._plan_observed: Instant | None = None
        self._part_next = False

    @property
    def waiting(self) -> int:
        """VMs about which something is unsaid."""
        return len(self._vms)

    @property
    def in_snapshot(self) -> bool:
        """True while parts of a snapshot are still to be sent."""
        return self._plan is not None

    @property
    def idle(self) -> bool:
        """True when there is nothing to send but a heartbeat."""
        host = self._host or self._storage or self._storage_gone
        return self._plan is None and (not self.state.opened or not (self._vms or host))

    def take_reading(self, reading: Reading) -> None:
        """Note what a reading says about the VMs in it; a VM in both its lists ended as its view says, then left."""
        observed = Instant(reading.observed_at, reading.observed_monotonic_ns)
        for view in reading.vms:
            self._take_view(view, observed)
        for gone in reading.gone:
            self._take_gone(gone.vm_id, gone.reason, observed)

    def take_listing(self, listing: Listing) -> None:
        """Note what a complete listing says: a VM that is not in it is gone."""
        observed = Instant(listing.observed_at, listing.observed_monotonic_ns)
        for view in listing.vms:
            self._take_view(view, observed)
        listed = {view.vm_id for view in listing.vms}
        absent = [vm_id for vm_id in (*self.state.vms, *self._vms) if vm_id not in listed]
        for vm_id in absent:
            self._take_gone(vm_id, GoneReason.ABSENT, observed)

    def take_host(self, facets: Mapping[HostFacet, msgspec.Struct], observed: Instant) -> None:
        """Note the host's own facets; those left out are unchanged."""
        for name, value in facets.items():
            try:
                rendered = render(value, self.state.host.get(name.value))
            except UnfitFacet:
                self.state.unfit += 1
                continue
            self._host.pop(name.value, None)
            if rendered is not None:
                self._host[name.value] = rendered
                self._host_observed = observed

    def take_storage(self, claims: Mapping[str, StorageClaim], observed: Instant) -> None:
        """Note all storage claims of the host (domain id text -> claim): a domain not in it is not claimed."""
        self._storage_gone = self.state.storage.keys() - claims.keys()
        self._storage = {}
        for domain, claim in claims.items():
            try:
                rendered = render(claim, self.state.storage.get(domain))
            except UnfitFacet:
                self.state.unfit += 1
                continue
            if rendered is not None:
                self._storage[domain] = rendered
        if self._storage or self._storage_gone:
            self._host_observed = observed

    def _take_view(self, view: VmView, observed: Instant) -> None:
        entry = self._vms.pop(view.vm_id, None)
        told_gone = entry is not None and entry.gone is not None
        changed = self.state.difference(view, {} if told_gone else None)
        if entry is not None:
            kept = {facet: value for facet, value in entry.facets.items() if facet not in view.facets}
            published = {} if told_gone else self.state.vms.get(view.vm_id, {})
            if process_ended(view.facets.get(Facet.RUN), entry.facets.get(Facet.RUN) or published.get(Facet.RUN)):
                kept = {facet: value for facet, value in kept.items() if facet not in RUN_FACETS}
            self.counts.coalesced += len(entry.facets) - len(kept)
            changed = {**kept, **changed}
        if told_gone or changed:
            self._vms[view.vm_id] = _Waiting(
                observed=observed,
                last_words=entry.last_words if entry is not None else {},
                gone=entry.gone if entry is not None else None,
                facets=changed,
            )

    def _take_gone(self, vm_id: VmId, reason: GoneReason, observed: Instant) -> None:
        entry = self._vms.pop(vm_id, None)
        last_words: dict[Facet, Rendered] = {}
        if entry is not None:
            last_words = entry.last_words
            if tells_of_an_end(entry.facets.get(Facet.RUN)):
                last_words = entry.facets
            else:
                self.counts.coalesced += len(entry.facets)
            if entry.gone is not None and reason is GoneReason.ABSENT:
                # Absence only repeats what an event already explained.
                reason, observed = entry.gone, entry.observed
        if vm_id in self.state.vms or (entry is not None and entry.gone is not None):
            self._vms[vm_id] = _Waiting(observed=observed, last_words=last_words, gone=reason)

    def begin_snapshot(self, asked: Asked, observed: Instant) -> None:
        """Start sending everything. Only after `take_listing` of a successful listing in this epoch."""
        least_parts = 1
        if self.state.opened:
            self.counts.asked_snapshots += 1
        else:
            self.counts.first_snapshots += 1
            least_parts = self._publish_untold()
        self._plan = plan(self.state, SnapshotId(self._new_id()), asked, least_parts=least_parts)
        self._plan_observed = observed
        self._part_next = True

    def _publish_untold(self) -> int:
        """Fold what waits into the state, as the parts will carry it; returns the least number of parts.

        Reasons why VMs left keep waiting: they go out as changes before the part whose inventory makes them absent.
        """
        for vm_id in list(self._vms):
            entry = self._vms[vm_id]
            if entry.gone is not None:
                self.state.remove(vm_id)
            if entry.facets:
                self.state.publish(vm_id, entry.facets)
            if entry.gone is None or entry.facets:
                del self._vms[vm_id]
        self.state.publish_host(self._host)
        self.state.publish_storage(self._storage)
        for domain in self._storage_gone:
            self.state.remove_storage(domain)
        self._host, self._storage, self._storage_gone = {}, {}, set()
        return 2 if self._vms else 1

    def next_report(self, now: Instant) -> HostReport | None:
        """Build and number the next report, or None. It must be sent before anything else of this host."""
        if self._plan is not None and self._part_is_due(self._plan):
            return self._next_part(self._plan, now)
        if not self.state.opened:
            return None
        if self._vms or self._host or self._storage or self._storage_gone:
            return self._next_changes(now)
        return None if self._plan is None else self._next_part(self._plan, now)

    def _part_is_due(self, under_way: Plan) -> bool:
        if not self.state.opened:
            return True
        if under_way.last_is_next and any(entry.gone is not None for entry in self._vms.values()):
            return False
        return self._part_next

    def _next_part(self, under_way: Plan, now: Instant) -> HostReport:
        try:
            part = build_part(self.state, under_way)
        except PartTooLarge:
            under_way = plan(
                self.state,
                SnapshotId(self._new_id()),
                Asked(answers=under_way.answers, force=under_way.force),
                least_parts=len(under_way.chunks) - under_way.built,
            )
            self._plan = under_way
            part = build_part(self.state, under_way)
        if under_way.done:
            self._plan = None
        self._part_next = False
        self.counts.snapshot_parts += 1
        return self.state.seal(part, observed=self._plan_observed or now, sent=now)

    def _next_changes(self, now: Instant) -> HostReport:
        observed = self._host_observed
        vms: list[VmFacets] = []
        gone: list[Gone] = []
        host = self.state.publish_host(self._host)
        storage = self.state.publish_storage(self._storage)
        storage_gone = sorted(domain for domain in self._storage_gone if self.state.remove_storage(domain))
        size = sum(len(data) + 48 for data in (*host.values(), *storage.values()))
        self._host, self._storage, self._storage_gone, self._host_observed = {}, {}, set(), None
        returned: dict[VmId, _Waiting] = {}
        while self._vms and len(vms) + len(gone) < MAX_VMS_PER_REPORT:
            vm_id, entry = next(iter(self._vms.items()))
            size += _GONE_BYTES + vm_bytes(entry.last_words or entry.facets)
            observed = observed or entry.observed
            too_late = entry.observed.monotonic_ns - observed.monotonic_ns > WINDOW_NS
            if (vms or gone or host or storage) and (too_late or size > LIMIT_BYTES):
                break
            observed = min(observed, entry.observed)
            del self._vms[vm_id]
            if entry.last_words:
                vms.append(self.state.publish(vm_id, entry.last_words))
                returned[vm_id] = _Waiting(observed=entry.observed, gone=entry.gone, facets=entry.facets)
            elif entry.gone is None:
                vms.append(self.state.publish(vm_id, entry.facets))
            else:
                self.state.remove(vm_id)
                gone.append(Gone(vm_id=vm_id, reason=entry.gone))
                if entry.facets:
                    returned[vm_id] = _Waiting(observed=entry.observed, facets=entry.facets)
        self._wait_again(returned)
        self._part_next = True
        self.counts.change_reports += 1
        self.counts.facets += sum(len(vm.facets) for vm in vms)
        self.counts.gone += len(gone)
        body = Changes(vms=vms, gone=gone, host=host, storage=storage, storage_gone=storage_gone)
        return self.state.seal(body, observed=observed or now, sent=now)

    def _wait_again(self, returned: dict[VmId, _Waiting]) -> None:
        """VMs of which more is to be said: within one report the order would be lost, so it waits for the next."""
        self._vms.update(returned)
        for vm_id in reversed(returned):
            self._vms.move_to_end(vm_id, last=False)

    def heartbeat(self, now: Instant) -> HostReport | None:
        """An empty report that proves life and agreement; None before the first part of the epoch."""
        if not self.state.opened:
            return None
        self.counts.heartbeats += 1
        return self.state.seal(Changes(), observed=now, sent=now)

    def farewell(self, now: Instant, reason: str) -> HostReport | None:
        """The last report of the epoch; None when the epoch never began."""
        if not self.state.opened:
            return None
        return self.state.seal(Farewell(reason=reason), observed=now, sent=now)

    def begin_epoch(self, epoch: AgentEpoch, untold: list[Gone], now: Instant) -> None:
        """Start anew after a report was lost: a listing and a snapshot come first.

        `untold`: VMs whose leaving stood in reports that may not have arrived; the reasons are told again.
        """
        self.state = self.state.succeed(epoch)
        self._plan = None
        self.counts.new_epochs += 1
        for lost in untold:
            if lost.vm_id not in self.state.vms and lost.vm_id not in self._vms:
                self._vms[lost.vm_id] = _Waiting(observed=now, gone=lost.reason)
