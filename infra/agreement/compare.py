"""Compares three accounts of the same fleet: what is true, what the topics say, what the tables hold. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from infra.agreement.fold import Fold

SHOWN = 20
"""How many disagreements of a kind are spelled out; the rest is counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What the simulated fleet knows of a VM. `host_id` None: no process anywhere."""

    status: str
    host_id: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CurrentRow:
    """A row of table `vm`, the digest as unsigned 64 bits."""

    incarnation: int
    version: int
    digest: int
    status: str
    availability: str
    host_id: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryRow:
    """Identity of a row of `vm_change`, the digest as unsigned 64 bits."""

    vm_id: str
    incarnation: int
    version: int
    digest: int


def compare_tables(fold: Fold, current: Mapping[str, CurrentRow], history: Sequence[HistoryRow]) -> list[str]:
    """Disagreements between the topic's fold and the tables; empty when they say the same."""
    found = [f"{vm_id}: in vm.changes, not in table vm" for vm_id in fold.vms.keys() - current.keys()]
    found += [f"{vm_id}: in table vm, never in vm.changes" for vm_id in current.keys() - fold.vms.keys()]
    for vm_id in fold.vms.keys() & current.keys():
        folded, row = fold.vms[vm_id], current[vm_id]
        for name in ("incarnation", "version", "digest", "status", "availability", "host_id"):
            if getattr(folded, name) != getattr(row, name):
                found.append(
                    f"{vm_id}: {name} is {getattr(folded, name)} by vm.changes, {getattr(row, name)} in the table"
                )
    ids = [f"{row.vm_id}:{row.incarnation}:{row.version}" for row in history]
    found += [f"{identity}: published, not in vm_change" for identity in fold.distinct.difference(ids)]
    found += [f"{identity}: in vm_change, never published" for identity in set(ids) - fold.distinct]
    if len(ids) != len(set(ids)):
        found.append(f"vm_change holds {len(ids) - len(set(ids))} changes twice")
    return found


def compare_truth(fold: Fold, truth: Mapping[str, Truth], hosts: Collection[str]) -> list[str]:
    """Disagreements between the fold and a fleet's ground truth, once the fleet has been quiet.

    `hosts` are the fleet's own: VMs of other hosts that use the same line are not its business.
    """
    found = []
    for vm_id, true in truth.items():
        folded = fold.vms.get(vm_id)
        if folded is None:
            found.append(f"{vm_id}: exists, was never published")
        elif folded.status != true.status:
            found.append(f"{vm_id}: is {true.status}, published as {folded.status}")
        elif folded.availability != "known":
            found.append(f"{vm_id}: its host reports, but it is published as {folded.availability}")
        elif true.host_id is not None and folded.host_id != true.host_id:
            found.append(f"{vm_id}: runs on {true.host_id}, published on {folded.host_id}")
    alive = [
        vm_id
        for vm_id, folded in fold.vms.items()
        if vm_id not in truth and folded.host_id in hosts and folded.status not in ("removed", "down")
    ]
    found += [f"{vm_id}: does not exist, published as {fold.vms[vm_id].status}" for vm_id in alive]
    return found


def shorten(found: Sequence[str]) -> list[str]:
    """The first disagreements and how many more there are."""
    rest = len(found) - SHOWN
    return [*found[:SHOWN], *([f"and {rest} more"] if rest > 0 else [])]
