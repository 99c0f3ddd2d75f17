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
    facets: dict[str, bytes]
    """Facet name -> canonical bytes of the last `after`."""


@dataclass(kw_only=True)
class Fold:
    """The state of all VMs and the problems found on the way; feed it each VM's changes in log order."""

    vms: dict[str, Folded] = field(default_factory=dict)
    distinct: set[str] = field(default_factory=set)
    """Change ids seen."""
    records: int = 0
    repeats: int = 0
    """Records at or below the version already folded with an equal id: allowed after a crash."""
    problems: list[str] = field(default_factory=list)

    def add(self, change: VmChange) -> None:
        """Take the next record of a partition."""
        self.records += 1
        known = self.vms.get(change.vm_id)
        if known is not None and (change.incarnation, change.version) <= (known.incarnation, known.version):
            self.repeats += 1
            if change.change_id not in self.distinct:
                self.problems.append(f"{change.change_id} comes after version {known.version}: out of order")
            elif change.version == known.version and change.state_digest != known.digest:
                self.problems.append(f"{change.change_id} was published twice with different content")
            return
        self._check_order(known, change)
        self.distinct.add(change.change_id)
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
