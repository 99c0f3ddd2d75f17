"""LibvirtSource: the agent's source on a real host.

Events are hints: they wake `wait` and lend details to the state, which alone decides. Callbacks are registered before
anything is listed, so nothing falls between the two; what changed while there was no connection is found by the
listing that each new connection asks for.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import libvirt
import msgspec

from infra.runtime.log import get_logger
from producers.agent.source import GoneView, Hints, HostIdentity, Listing, Reading, SourceUnavailable, VmView
from producers.libvirt.chronicle import REBOOT_NS, Chronicle, told
from producers.libvirt.connection import Connection, DomainVanished
from producers.libvirt.hints import HintQueue
from producers.libvirt.host import capacity_of, identity_of_host, system_of
from producers.libvirt.inspection import Inspector
from producers.libvirt.link import Link
from producers.libvirt.mapping import gone_reason_of
from producers.libvirt.processes import run_directories_of
from schemas.facets import Facet, HostFacet
from schemas.facets.run import Run
from schemas.ids import BootId, HostId, MachineId, VmId
from schemas.status import ALIVE, GoneReason, Status

COALESCE_SECONDS = 0.06
"""One action makes up to four events within some milliseconds; they are read once."""
EXPLANATION_SECONDS = 0.3
"""How long a VM that just vanished waits for the event that says why; it comes within some milliseconds."""
MIGRATION_POLL_NS = 1_000_000_000
"""A cancelled outgoing migration makes no event on its source."""

ENDING_NS = 3_000_000_000
"""libvirtd answers nothing about a domain that shuts down until it has stopped, 1.4 to 1.8 s later: looking at it
before would keep all others waiting. So the stop is awaited, and looked for after this time if it does not come."""
_EXPLANATION_POLL_SECONDS = 0.01
_BLANK: Final = Chronicle()

_log = get_logger(__name__)


class LibvirtSource:
    """Implements `producers.agent.source.Source` over one libvirtd.

    `host_id`, `machine_id` and `boot_id` are read from this host unless given (see `identity_of_host`).
    `run_directory` is where that libvirtd keeps its process id files, where the URI does not tell.
    """

    def __init__(
        self,
        uri: str,
        *,
        host_id: HostId | None = None,
        machine_id: MachineId | None = None,
        boot_id: BootId | None = None,
        run_directory: Path | None = None,
    ) -> None:
        self._given = (host_id, machine_id, boot_id)
        self._identity: HostIdentity | None = None
        directories = run_directories_of(uri, os.getuid()) if run_directory is None else [run_directory]
        self._queue = HintQueue()
        self._link = Link(uri, on_event=self._queue.put, on_change=self._link_changed)
        self._inspector = Inspector(directories)
        self._host_facets: dict[HostFacet, msgspec.Struct] = {}
        self._host_generation = 0
        self._seen: set[VmId] = set()
        self._seen_generation = 0
        # Shared by the thread that waits and the one that reads, under this lock.
        self._lock = threading.Lock()
        self._chronicles: dict[VmId, Chronicle] = {}
        self._dirty: set[VmId] = set()
        self._due_ns: dict[VmId, int] = {}
        self._relist = False
        self._host_changed = False
        self._told_generation = 0

    def setup(self) -> None:
        """Connect; raises SourceUnavailable (try again: the source goes on connecting by itself), ConfigError."""
        self.identity()
        self._link.connect()

    def identity(self) -> HostIdentity:
        """Valid at any time, libvirtd or not. Raises ConfigError where this host has no id and none was given."""
        if self._identity is None:
            self._identity = identity_of_host(*self._given)
        return self._identity

    def wait(self, timeout_seconds: float) -> Hints:
        """Block until something may have changed, then for `COALESCE_SECONDS` more; empty hints when time is over."""
        deadline = time.monotonic() + timeout_seconds
        while not self._absorb():
            now = time.monotonic()
            if now >= deadline:
                return Hints()
            self._queue.wait(min(deadline - now, self._next_due_seconds()))
        time.sleep(COALESCE_SECONDS)
        self._absorb()
        with self._lock:
            dirty, self._dirty = frozenset(self._dirty), set()
            relist, self._relist = self._relist, False
            host, self._host_changed = self._host_changed, False
        facets: dict[HostFacet, msgspec.Struct] = {HostFacet.REACHABILITY: self._link.reachability()} if host else {}
        return Hints(dirty=dirty, host=host, relist=relist, facets=facets)

    def read(self, vm_ids: frozenset[VmId]) -> Reading:
        """The truth about these VMs; raises SourceUnavailable.

        A transient VM that ended since the last look comes twice: in `vms` with the last run facet, which says how
        it ended, and in `gone`. A VM that was never here is gone, reason absent.
        """
        observed_at, monotonic_ns = time.time_ns(), time.monotonic_ns()
        connection, generation = self._link.current()
        self._enter(generation)
        self._absorb_for_reader()
        vms: list[VmView] = []
        vanished: list[VmId] = []
        for vm_id in sorted(vm_ids):
            try:
                domain = connection.domain(vm_id)
                vms.append(self._look(connection, domain, vm_id, now=(observed_at, monotonic_ns)))
            except DomainVanished:
                vanished.append(vm_id)
            except libvirt.libvirtError as error:
                # Not a word about this VM: it is left out, and the next listing looks again.
                _log.warning("domain_unreadable", vm_id=vm_id.hex(), error_code=error.get_error_code())
        self._await_explanations(vanished)
        gone: list[GoneView] = []
        for vm_id in vanished:
            ended, reason = self._bury(vm_id, observed_at)
            gone.append(GoneView(vm_id=vm_id, reason=reason))
            if ended is not None:
                vms.append(ended)
        return Reading(vms=vms, gone=gone, observed_at=observed_at, observed_monotonic_ns=monotonic_ns)

    def list(self) -> Listing:
        """The truth about all VMs, running or only defined, sorted by id; raises SourceUnavailable.

        A VM that vanished while this connection watched is still in it, and hinted: only `read` knows why it went,
        and absence from a listing would say that nobody does.
        """
        observed_at, monotonic_ns = time.time_ns(), time.monotonic_ns()
        connection, generation = self._link.current()
        self._enter(generation)
        self._absorb_for_reader()
        domains = _all_domains(connection)
        views: list[VmView] = []
        for vm_id in sorted(domains.keys() | self._seen):
            try:
                if vm_id not in domains:
                    raise DomainVanished
                view = self._look(connection, domains[vm_id], vm_id, now=(observed_at, monotonic_ns))
            except DomainVanished:
                view = self._vanishing(vm_id, observed_at)
            views.append(view)
        self._keep_only({view.vm_id for view in views})
        return Listing(vms=views, observed_at=observed_at, observed_monotonic_ns=monotonic_ns)

    def host_facets(self) -> dict[HostFacet, msgspec.Struct]:
        """Facets of the host; those that libvirt knows are as it said last."""
        try:
            connection, generation = self._link.current()
            if generation != self._host_generation:
                self._host_facets = {
                    HostFacet.SYSTEM: system_of(connection),
                    HostFacet.CAPACITY: capacity_of(connection),
                }
                self._host_generation = generation
        except SourceUnavailable:
            pass  # told by reachability
        return {**self._host_facets, HostFacet.REACHABILITY: self._link.reachability()}

    def close(self) -> None:
        """Disconnect; safe to call twice, bounded by some seconds."""
        self._link.close()

    def _link_changed(self) -> None:
        with self._lock:
            self._host_changed = True
            if self._link.generation != self._told_generation:
                self._told_generation = self._link.generation
                self._relist = True
        self._queue.poke()

    def _absorb(self) -> bool:
        """Take what came into the chronicles and hints; True when there is something to tell."""
        events, overflowed = self._queue.drain()
        now = time.monotonic_ns()
        with self._lock:
            for event in events:
                chronicle = told(self._chronicles.get(event.vm_id, _BLANK), event)
                self._chronicles[event.vm_id] = chronicle
                if chronicle.is_ending:
                    self._due_ns.setdefault(event.vm_id, now + ENDING_NS)
                else:
                    self._due_ns.pop(event.vm_id, None)
                    self._dirty.add(event.vm_id)
            for vm_id in [vm_id for vm_id, due_ns in self._due_ns.items() if due_ns <= now]:
                del self._due_ns[vm_id]
                self._dirty.add(vm_id)
            if overflowed:
                _log.warning("libvirt_events_lost", consequence="everything is listed again")
                self._relist = True
            return bool(self._dirty) or self._relist or self._host_changed

    def _next_due_seconds(self) -> float:
        with self._lock:
            if not self._due_ns:
                return float("inf")
            return max(0.0, (min(self._due_ns.values()) - time.monotonic_ns()) / 1e9)

    def _enter(self, generation: int) -> None:
        """After a new connection nothing tells how VMs vanished that an earlier one saw, but what was told before."""
        if generation != self._seen_generation:
            self._seen_generation = generation
            self._seen = {vm_id for vm_id in self._seen if self._is_explained(vm_id)}

    def _look(self, connection: Connection, domain: Any, vm_id: VmId, *, now: tuple[int, int]) -> VmView:
        with self._lock:
            chronicle = self._chronicles.get(vm_id, _BLANK)
        view = self._inspector.look(connection, domain, vm_id, chronicle, now=now)
        self._seen.add(vm_id)
        run = view.facets.get(Facet.RUN)
        if isinstance(run, Run):
            self._follow_up(vm_id, run, chronicle)
        return view

    def _follow_up(self, vm_id: VmId, run: Run, chronicle: Chronicle) -> None:
        """Some states end without an event: look again by the clock."""
        with self._lock:
            due_ns = None
            if run.status is Status.MIGRATING_FROM:
                due_ns = time.monotonic_ns() + MIGRATION_POLL_NS
            elif run.status is Status.REBOOTING and chronicle.rebooted_at_ns is not None:
                due_ns = chronicle.rebooted_at_ns + REBOOT_NS
            if due_ns is not None:
                self._due_ns[vm_id] = due_ns
            # The start was missed, and what was told of the run before is not about this one. A chronicle that has
            # changed meanwhile is: then the next look decides.
            over = chronicle.stopped is not None and run.status in ALIVE
            if over and self._chronicles.get(vm_id) is chronicle:
                self._chronicles[vm_id] = _BLANK
        if due_ns is not None:
            self._queue.poke()

    def _vanishing(self, vm_id: VmId, observed_at: int) -> VmView:
        with self._lock:
            self._dirty.add(vm_id)
            chronicle = self._chronicles.get(vm_id, _BLANK)
        self._queue.poke()
        return self._inspector.last_words(vm_id, chronicle, observed_at) or VmView(vm_id=vm_id, facets={})

    def _bury(self, vm_id: VmId, observed_at: int) -> tuple[VmView | None, GoneReason]:
        with self._lock:
            chronicle = self._chronicles.pop(vm_id, _BLANK)
            self._due_ns.pop(vm_id, None)
        ended = self._inspector.last_words(vm_id, chronicle, observed_at)
        self._inspector.forget(vm_id)
        self._seen.discard(vm_id)
        return ended, gone_reason_of(chronicle)

    def _await_explanations(self, vanished: Iterable[VmId]) -> None:
        deadline = time.monotonic() + EXPLANATION_SECONDS
        waiting = self._seen.intersection(vanished)
        while any(not self._is_explained(vm_id) for vm_id in waiting) and time.monotonic() < deadline:
            time.sleep(_EXPLANATION_POLL_SECONDS)
            self._absorb_for_reader()

    def _is_explained(self, vm_id: VmId) -> bool:
        with self._lock:
            return gone_reason_of(self._chronicles.get(vm_id, _BLANK)) is not GoneReason.ABSENT

    def _absorb_for_reader(self) -> None:
        # The waiter may have been woken by an event that is taken here, and gone to sleep again.
        if self._absorb():
            self._queue.poke()

    def _keep_only(self, vm_ids: set[VmId]) -> None:
        self._inspector.keep_only(vm_ids)
        self._seen &= vm_ids
        with self._lock:
            for vm_id in self._chronicles.keys() - vm_ids - self._dirty:
                del self._chronicles[vm_id]


def _all_domains(connection: Connection) -> dict[VmId, Any]:
    try:
        return {VmId(bytes(domain.UUID())): domain for domain in connection.ask(connection.raw.listAllDomains, 0)}
    except libvirt.libvirtError as error:
        raise SourceUnavailable(f"the domains can not be listed: {error}") from error
