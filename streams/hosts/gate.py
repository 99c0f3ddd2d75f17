"""The gate: facets whose fingerprint is the one we remember end here, without having been decoded (design §4.2).

Also the place that refuses what must not travel on: facets with an unknown name or above the limit. Their
fingerprints are remembered all the same, since they count in the agent's digest.
"""

from typing import NamedTuple

from schemas.facets import FACET_LIMIT_BYTES
from schemas.fingerprints import low64, raw_fingerprint
from schemas.ids import VmId
from streams.hosts.state import MARK_AT, MARK_BYTES, NO_MARK, NO_MARKS, VmMarks

MAX_REJECTED = 8
"""Refused facets remembered per VM; of more the digest will not agree, which is what the host then shows."""
MAX_NAME_CHARS = 64


class Refused(NamedTuple):
    """A facet for dead.letters."""

    vm_id: VmId | None
    """None for a facet of the host."""
    facet: str
    data: bytes
    reason: str


class Gated(NamedTuple):
    """What one statement about one VM comes to."""

    after: VmMarks
    passed: dict[str, bytes]
    """The facets that differ (with force: all), to travel on."""
    passed_bytes: int
    drift: int
    """Change of the host's digest."""
    refused: list[Refused]


def gate(vm_id: VmId, before: VmMarks, facets: dict[str, bytes], *, whole: bool, force: bool) -> Gated:
    """Compare the facets of a VM with what was said before.

    `whole`: the VM has no other facets than these (a snapshot), so marks of others end. `force`: equal ones pass too.
    """
    known = before.marks
    after = bytearray(NO_MARKS if whole else known)
    passed: dict[str, bytes] = {}
    drift = passed_bytes = 0
    odd = bool(before.rejected)
    for name, data in facets.items():
        at = MARK_AT.get(name)
        if at is None or len(data) > FACET_LIMIT_BYTES:
            odd = True
            continue
        mark = raw_fingerprint(vm_id, name, data)
        old = known[at : at + MARK_BYTES]
        after[at : at + MARK_BYTES] = mark
        if mark != old:
            drift += low64(mark) - low64(old)
        elif not force:
            continue
        passed[name] = data
        passed_bytes += len(data)
    if whole and after != known:
        drift -= _ended(known, after)
    if odd:
        gated = Gated(before, passed, passed_bytes, drift, [])
        return _with_refused(vm_id, gated, facets, after, whole=whole, force=force)
    return Gated(VmMarks(before.partition, bytes(after)), passed, passed_bytes, drift, [])


def _ended(known: bytes, after: bytearray) -> int:
    """Sum of the marks that are no more."""
    return sum(low64(known[at : at + MARK_BYTES]) for at in MARK_AT.values() if after[at : at + MARK_BYTES] == NO_MARK)


def _with_refused(
    vm_id: VmId, gated: Gated, facets: dict[str, bytes], after: bytearray, *, whole: bool, force: bool
) -> Gated:
    """The same with facets among them that must not travel, or did not before. `gated.after` is still as before."""
    partition, _, known = gated.after
    old, drift = known or {}, gated.drift
    rejected = {} if whole else {name: mark for name, mark in old.items() if name not in facets}
    refused: list[Refused] = []
    for name, data in facets.items():
        reason = refusal(name, data, MARK_AT)
        if reason is None:
            continue
        if not name.isascii() or len(name) > MAX_NAME_CHARS or len(rejected) >= MAX_REJECTED:
            refused.append(Refused(vm_id, name, data, reason))
            continue
        rejected[name] = raw_fingerprint(vm_id, name, data)
        if force or rejected[name] != old.get(name):
            refused.append(Refused(vm_id, name, data, reason))
        at = MARK_AT.get(name)
        if at is not None:
            drift -= low64(bytes(after[at : at + MARK_BYTES]))
            after[at : at + MARK_BYTES] = NO_MARK
    drift += sum(map(low64, rejected.values())) - sum(map(low64, old.values()))
    marks = VmMarks(partition, bytes(after), rejected or None)
    return gated._replace(after=marks, drift=drift, refused=refused)


def refusal(name: str, data: bytes, known: dict[str, int]) -> str | None:
    """Why a facet must not travel on; None when it may."""
    if name not in known:
        return "facet_unknown"
    return "facet_too_large" if len(data) > FACET_LIMIT_BYTES else None
