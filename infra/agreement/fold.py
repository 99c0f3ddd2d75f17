"""Folds `vm.changes` into the state that it means, and finds what a chain of changes must never have.

Independent of the stages and the sink: it knows the records and their promises only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.vm_change import VmChange


@dataclass(frozen=True, kw_only=True, slots=True)
class Folded:
    """A VM after its last change."""

    incarnation: int
    version: int
    digest: int
    status: str
    availability: str
    host_id: str | None
    ownership_epoch: int
    run_id: str | None
    exit: tuple[str, str] | None
    """Exit status and reason."""
    facets: dict[str, bytes]
    """Facet name -> canonical bytes of the last `after`."""


@dataclass(kw_only=True)
class Fold:
    """The state of all VMs and the problems found on the way; feed it each VM's changes in log order."""

    vms: dict[str, Folded] = field(default_factory=dict)
    distinct: dict[str, int] = field(default_factory=dict)
    """Change ids seen, with the digest of the state after each."""
    records: int = 0
    repeats: int = 0
    """Records at or below the version already folded: allowed after a crash, with the same content."""
    problems: list[str] = field(default_factory=list)

    def add(self, change: VmChange) -> None:
        """Take the next record of a partition."""
        self.records += 1
        known = self.vms.get(change.vm_id)
        if known is not None and (change.incarnation, change.version) <= (known.incarnation, known.version):
            self.repeats += 1
            first = self.distinct.get(change.change_id)
            if first is None:
                self.problems.append(f"{change.change_id} comes after version {known.version}: out of order")
            elif first != change.state_digest:
                self.problems.append(f"{change.change_id} was published twice with different content")
            return
        self._check_order(known, change)
        self.distinct[change.change_id] = change.state_digest
        fresh = known is None or change.incarnation != known.incarnation
        facets = {} if fresh or known is None else dict(known.facets)
        for name, facet in change.facets.items():
            if facet.cleared:
                facets.pop(name, None)
            else:
                facets[name] = bytes(facet.after)
        self.vms[change.vm_id] = Folded(
            incarnation=change.incarnation,
            version=change.version,
            digest=change.state_digest,
            status=change.status.value,
            availability=change.availability.state.value,
            host_id=change.host_id,
            ownership_epoch=change.ownership_epoch,
            run_id=change.run_id,
            exit=None if change.exit is None else (change.exit.status.value, change.exit.reason.value),
            facets=facets,
        )

    def _check_order(self, known: Folded | None, change: VmChange) -> None:
        same_life = known is not None and change.incarnation == known.incarnation
        expected_version = known.version + 1 if known is not None and same_life else 1
        expected_digest = known.digest if known is not None and same_life else 0
        if change.version != expected_version:
            self.problems.append(f"{change.change_id}: expected version {expected_version}, a change is missing")
        elif change.previous_digest != expected_digest:
            self.problems.append(f"{change.change_id}: its previous digest is not the digest of the version before")
        if change.change_id != f"{change.vm_id}:{change.incarnation}:{change.version}":
            self.problems.append(f"{change.change_id}: is not the id of {change.vm_id} version {change.version}")
