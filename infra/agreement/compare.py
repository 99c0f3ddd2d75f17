"""Compares three accounts of the same fleet: what is true, what the topics say, what the tables hold. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from infra.agreement.fold import Fold, Folded
from producers.simulator.truth import VmTruth
from schemas.facets import VM_FACETS, Facet
from schemas.facets.normal import fingerprint
from schemas.status import Status

SHOWN = 20
"""How many disagreements of a kind are spelled out; the rest is counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What the simulated fleet knows of a VM. `host_id` None: no process anywhere."""

    status: str
    availability: str
    host_id: str | None
    exit: tuple[str, str] | None
    """Exit status and reason of a run that ended."""
    facets: Mapping[str, str]
    """Normalised fingerprints in hex of the facets it must have."""


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
    stored = {f"{row.vm_id}:{row.incarnation}:{row.version}": row.digest for row in history}
    found += [f"{identity}: published, not in vm_change" for identity in fold.distinct.keys() - stored.keys()]
    found += [f"{identity}: in vm_change, never published" for identity in stored.keys() - fold.distinct.keys()]
    for identity in stored.keys() & fold.distinct.keys():
        if stored[identity] != fold.distinct[identity]:
            found.append(f"{identity}: vm_change holds another digest than was published")
    if len(history) != len(stored):
        found.append(f"vm_change holds {len(history) - len(stored)} changes twice")
    return found


def truth_of(vms: Mapping[str, VmTruth]) -> dict[str, Truth]:
    """A simulated fleet's ground truth as it is compared here."""
    return {
        vm_id: Truth(
            status=vm.status.value,
            availability=vm.availability.value,
            host_id=vm.host_id,
            exit=None
            if vm.exit_status is None or vm.exit_reason is None
            else (vm.exit_status.value, vm.exit_reason.value),
            facets=vm.facets,
        )
        for vm_id, vm in vms.items()
    }


def compare_truth(fold: Fold, truth: Mapping[str, Truth], hosts: Collection[str]) -> list[str]:
    """Disagreements between the fold and a fleet's ground truth, once the fleet has been quiet.

    `hosts` are the fleet's own: VMs of other hosts that use the same line are not its business.
    """
    found = []
    for vm_id, true in truth.items():
        folded = fold.vms.get(vm_id)
        if folded is None:
            found.append(f"{vm_id}: exists, was never published")
        else:
            found += [f"{vm_id}: {difference}" for difference in _untrue(true, folded)]
    alive = [
        vm_id
        for vm_id, folded in fold.vms.items()
        if vm_id not in truth and folded.host_id in hosts and folded.status not in ("removed", "down")
    ]
    found += [f"{vm_id}: does not exist, published as {fold.vms[vm_id].status}" for vm_id in alive]
    return found


def _untrue(true: Truth, folded: Folded) -> Iterator[str]:
    """What is published of a VM and not so."""
    if folded.status != true.status:
        yield f"is {true.status}, published as {folded.status}"
    if folded.availability != true.availability:
        yield f"is {true.availability}, published as {folded.availability}"
    if true.host_id is not None and folded.host_id != true.host_id:
        yield f"runs on {true.host_id}, published on {folded.host_id}"
    # What is removed keeps how its last run ended, which the fleet has forgotten with it.
    if folded.exit != true.exit and true.status != Status.REMOVED:
        yield f"ended {true.exit}, published as {folded.exit}"
    published = {name: fingerprint_of(name, data).hex() for name, data in folded.facets.items() if name in true.facets}
    for name, wanted in true.facets.items():
        if published.get(name) != wanted:
            yield f"facet {name} is not as the host has it"


def fingerprint_of(facet: str, data: bytes) -> bytes:
    """Normalised fingerprint of a published facet."""
    return fingerprint(msgspec.msgpack.decode(data, type=VM_FACETS[Facet(facet)]))


def shorten(found: Sequence[str]) -> list[str]:
    """The first disagreements and how many more there are."""
    rest = len(found) - SHOWN
    return [*found[:SHOWN], *([f"and {rest} more"] if rest > 0 else [])]
