"""VmChange: the public delta of a VM (`vm.changes`, key vm_id)."""

from typing import Any, ClassVar

import msgspec
import xxhash

from schemas.change import Availability, Cause, Evidence, Exit, FacetChange
from schemas.codec import Record, SchemaVersion
from schemas.fingerprints import U64
from schemas.ownership import Derived, Managed
from schemas.status import Status

_encode = msgspec.msgpack.Encoder().encode


class VmChange(Record, frozen=True, kw_only=True):
    """One change of one VM. Identity and order are (vm_id, incarnation, version); versions count from 1, no holes.

    Deterministic: no field comes from a clock or a counter of the stage. `previous_digest` of a version is
    `state_digest` of the one before, 0 before the first. Times are int64 UTC ns in whole microseconds.
    """

    SCHEMA: ClassVar[SchemaVersion] = SchemaVersion(record="VmChange", major=1, minor=0)
    PUBLIC: ClassVar[bool] = True

    vm_id: str
    incarnation: int
    version: int
    change_id: str
    observed_at: int
    detected_at: int
    cause: Cause
    status: Derived[Status]
    availability: Derived[Availability]
    host_id: Derived[str | None]
    ownership_epoch: Derived[int]
    run_id: Derived[str | None]
    exit: Derived[Exit | None]
    facets: dict[str, FacetChange]
    managed: Managed[dict[str, Any] | None] = None
    """Changed managed fields, by name; None: none changed."""
    previous_digest: int
    state_digest: int
    intent_id: str | None = None
    evidence: Evidence
    rules_version: int


def state_digest(
    *,
    incarnation: int,
    version: int,
    status: Status,
    availability: Availability,
    host_id: str | None,
    ownership_epoch: int,
    run_id: str | None,
    exit_: Exit | None,
    facets: dict[str, bytes],
    managed: dict[str, Any],
) -> int:
    """Digest of a VM's whole state, 64 bits: readers compare it, they never compute it.

    `facets`: name -> normalised fingerprint of every facet the VM has.
    """
    return digest_of(
        [
            incarnation,
            version,
            status,
            [availability.state, availability.reasons],
            host_id,
            ownership_epoch,
            run_id,
            None if exit_ is None else [exit_.status, exit_.reason, exit_.message],
            sorted(facets.items()),
            [[name, managed[name]] for name in sorted(managed)],
        ]
    )


def digest_of(canonical: list[Any]) -> int:
    """Digest of the canonical array that `state_digest` lays out."""
    return xxhash.xxh3_128_intdigest(_encode(canonical)) & U64
