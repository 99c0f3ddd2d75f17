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

    `whole`: the VM has no other facets than these (a snapshot), so others no longer count in the digest. What the vms
    stage was told of them stands, and so do their marks. `force`: equal ones pass too; if it is `whole` as well, both
    stages forget the marks of others, so that marks which are wrong do not stay for ever.
    """
    known = before.marks
    after = bytearray(NO_MARKS if whole and force else known)
    passed: dict[str, bytes] = {}
    drift = passed_bytes = found = 0
    odd = bool(before.rejected)
    for name, data in facets.items():
        at = MARK_AT.get(name)
        if at is None or len(data) > FACET_LIMIT_BYTES:
            odd = True
            continue
        found += 1
        mark = raw_fingerprint(vm_id, name, data)
        old = known[at : at + MARK_BYTES]
        if mark != old or force:
            after[at : at + MARK_BYTES] = mark
            drift += low64(mark) - low64(old)
        else:
            continue
        passed[name] = data
        passed_bytes += len(data)
    if odd or (whole and (force or found < _marked(after))):
        return _with_rejected(
            vm_id, before, Gated(before, passed, passed_bytes, 0, []), facets, bytes(after), whole=whole, force=force
        )
    return Gated(VmMarks(before.partition, bytes(after)), passed, passed_bytes, drift, [])


def _marked(marks: bytearray) -> int:
    """Number of facets that ever travelled."""
    return sum(marks[at : at + MARK_BYTES] != NO_MARK for at in MARK_AT.values())


def _with_rejected(
    vm_id: VmId, before: VmMarks, gated: Gated, facets: dict[str, bytes], after: bytes, *, whole: bool, force: bool
) -> Gated:
    """The same with facets among them that must not travel, or did not before, or are said no more."""
    old = before.rejected or {}
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
    if whole:
        unsaid = (name for name, at in MARK_AT.items() if name not in facets and after[at : at + MARK_BYTES] != NO_MARK)
        rejected.update(dict.fromkeys(unsaid, b""))
    marks = VmMarks(before.partition, after, rejected or None)
    return gated._replace(after=marks, drift=marks.total() - before.total(), refused=refused)


def refusal(name: str, data: bytes, known: dict[str, int]) -> str | None:
    """Why a facet must not travel on; None when it may."""
    if name not in known:
        return "facet_unknown"
    return "facet_too_large" if len(data) > FACET_LIMIT_BYTES else None
