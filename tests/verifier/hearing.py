"""What one partition of the vms stage hears: hosts with their doubts, VMs with a claim per host.

The side of the oracle that reads accepted statements; `oracle` lays what was published beside it.
"""

from __future__ import annotations

from collections.abc import Collection

from tests.verifier.changes import Change
from tests.verifier.claims import Claim
from tests.verifier.observations import (
    BACK,
    CONFIRMED,
    CONFLICT,
    CONFLICT_ENDED,
    DEGRADED,
    NEW_BOOT,
    RECOVERED,
    SILENT,
    STOPPED,
    Heard,
    Statement,
)
from tests.verifier.records import hash64

HOST_DOUBTS = frozenset({"host_silent", "agent_stopped", "libvirt_unreachable", "host_conflict"})
_SAID_BY = {SILENT: "host_silent", STOPPED: "agent_stopped", DEGRADED: "libvirt_unreachable", CONFLICT: "host_conflict"}
Letters = Collection[tuple[int, int, bytes, int]]
"""(source, offset, VM, hash of the bytes) of every facet that was put aside as malformed."""


class Watched:
    """A VM: its claims, its published state, and its changes that are still to come."""

    __slots__ = ("at", "changes", "claims", "facets", "lost_sight", "now", "owner")

    def __init__(self) -> None:
        self.changes: list[tuple[int, Change]] = []
        self.at = 0
        self.claims: dict[bytes, Claim] = {}
        self.facets: dict[str, int] = {}
        self.now: Change | None = None
        self.owner: bytes | None = None
        self.lost_sight = False

    @property
    def next(self) -> Change | None:
        """The change that must come next."""
        return self.changes[self.at][1] if self.at < len(self.changes) else None


class Ear:
    """What a partition knows of a host."""

    __slots__ = ("boot", "claimed", "degraded", "doubts")

    def __init__(self, boot: bytes) -> None:
        self.boot = boot
        self.doubts: frozenset[str] = frozenset()
        self.degraded = False
        self.claimed: set[bytes] = set()


class Hearing:
    """Hosts and VMs of one partition."""

    def __init__(self, letters: Letters) -> None:
        self.vms: dict[bytes, Watched] = {}
        self.hosts: dict[bytes, Ear] = {}
        self._letters = letters

    def watched(self, vm: bytes) -> Watched:
        """The VM, made when it is first spoken of."""
        found = self.vms.get(vm)
        if found is None:
            found = self.vms[vm] = Watched()
        return found

    def apply(self, heard: Heard) -> dict[bytes, None]:
        """Apply one report; returns the VMs that it may have changed, in order."""
        host = self.hosts.get(heard.host)
        if host is None:
            host = self.hosts[heard.host] = Ear(heard.boot)
        touched: dict[bytes, None] = {}
        for said in heard.statements:
            if self._apply(heard, host, said):
                touched[said.vm] = None
        if heard.inventory is not None:
            self._take_inventory(heard, host, touched)
        before = host.doubts
        self._mind_boot(heard, host)
        for event in heard.events:
            self._take_event(heard, host, event)
        if host.doubts != before:
            touched.update(dict.fromkeys(vm for vm in host.claimed if self.vms[vm].owner == heard.host))
        return touched

    def _apply(self, heard: Heard, host: Ear, said: Statement) -> bool:
        watched = self.watched(said.vm)
        claim = watched.claims.get(heard.host)
        if said.gone is not None:
            return claim is not None and self._leave(heard, host, said.vm, claim, said.gone)
        if claim is None:
            if not said.facets:
                return False
            claim = Claim(heard.boot)
        claim.take(heard.boot, said.facets, lambda name, data: self._refused(heard, said.vm, data), force=heard.force)
        if watched.now is None and claim.status is None:
            return False  # nobody can say what it does: no row is made, and nothing remembered
        claim.offset = heard.offset
        watched.claims[heard.host] = claim
        host.claimed.add(said.vm)
        return True

    def _refused(self, heard: Heard, vm: bytes, data: bytes) -> bool:
        return bool(self._letters) and (heard.source, heard.offset, vm, hash64(data)) in self._letters

    def _leave(self, heard: Heard, host: Ear, vm: bytes, claim: Claim, reason: str) -> bool:
        """False while two agents speak: the word of one proves nothing then (H3)."""
        if claim.alive and "host_conflict" in host.doubts and reason != "absent":
            return False
        watched = self.vms[vm]
        claim.offset = heard.offset
        host.claimed.discard(vm)
        if watched.owner == heard.host:
            claim.ended = True
        else:
            del watched.claims[heard.host]
        return True

    def _take_inventory(self, heard: Heard, host: Ear, touched: dict[bytes, None]) -> None:
        listed = set(heard.inventory or ())
        for vm in sorted(host.claimed):
            claim = self.vms[vm].claims[heard.host]
            if claim.offset >= heard.offset:
                continue
            if vm not in listed:
                if self._leave(heard, host, vm, claim, "absent"):
                    touched[vm] = None
            elif claim.boot != heard.boot:
                claim.boot, claim.offset = heard.boot, heard.offset

    @staticmethod
    def _mind_boot(heard: Heard, host: Ear) -> None:
        if "host_conflict" not in host.doubts:
            host.boot = heard.boot

    def _take_event(self, heard: Heard, host: Ear, event: int) -> None:
        if event in _SAID_BY:
            host.doubts |= {_SAID_BY[event]}
            host.degraded = event == DEGRADED or (host.degraded and event == CONFLICT)
        elif event == CONFLICT_ENDED:
            host.doubts -= {"host_conflict"}
            host.boot = heard.boot
        elif event == NEW_BOOT:
            host.boot = heard.boot
        elif event == CONFIRMED:
            self._confirm(heard, host)
        elif event in (BACK, RECOVERED):
            host.degraded = False

    def _confirm(self, heard: Heard, host: Ear) -> None:
        if not host.degraded:
            host.doubts &= {"host_conflict"}
        for vm in sorted(host.claimed):
            watched = self.vms[vm]
            claim = watched.claims[heard.host]
            if watched.owner != heard.host and claim.alive and claim.boot != host.boot:
                host.claimed.discard(vm)
                del watched.claims[heard.host]
