"""vm.state and host.state against the fold of the changes: what a reader of the compacted topics learns is true.

vm.state, by key:

- the head that stays (the last record of its key, which is what compaction keeps) is the fold of vm.changes: same
  version, digest, status, availability, owner, epoch, run, exit and managed fields. Below the fold it is `stale`, above
  it `foreign`; lower than a head written before it: `went_back` (I6), as a late write of a dead owner would be;
- the facets that the head names are those published; every facet its claims name has a row with that fingerprint, and
  the row's bytes have that fingerprint; no row stands above its head at the end; rows that no claim names were deleted
  (`not_deleted`);
- a head is deleted only after it said `removed` (`wrongly_deleted`), a facet row only when no claim names it.

host.state: the last record per host is the fold of host.changes; versions never go back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgpack
import xxhash

from tests.verifier.facets import NOTED, marks_of, marks_of_bytes
from tests.verifier.findings import Finding, Kind, Report
from tests.verifier.history import Folded, History
from tests.verifier.logs import HOST_STATE, VM_STATE, Message
from tests.verifier.records import Unreadable, unpack_map

Order = tuple[int, int, int]
"""(incarnation, version, applied)."""
_REASONS = ("status", "reason", "message")


class Row:
    """The last facet row of a key."""

    __slots__ = ("fingerprint", "normal", "offset", "order")

    def __init__(self, order: Order, offset: int, fingerprint: bytes, normal: int | None) -> None:
        self.order, self.offset, self.fingerprint, self.normal = order, offset, fingerprint, normal


class Head:
    """The last head of a VM, and the highest that was ever written."""

    __slots__ = ("digest", "highest", "look", "marks", "offset", "order", "owner", "published", "removed", "values")

    def __init__(self) -> None:
        self.order: Order | None = None
        """None: deleted."""
        self.look: tuple[Any, ...] = ()
        self.digest = 0
        self.owner: str | None = None
        self.values: tuple[int, int, dict[str, Any]] = (0, 0, {})
        self.published: Mapping[str, bytes] = {}
        self.marks: dict[str, bytes] = {}
        """Rest of the key -> fingerprint of every facet that a claim names."""
        self.highest: Order = (0, 0, -1)
        self.offset = -1
        self.removed = False


def fingerprint_of(facet: str, data: bytes) -> bytes:
    """Fingerprint of canonical bytes: xxh3_128 of them without the fields that are only noted."""
    noted = NOTED.get(facet, ())
    if noted:
        value = unpack_map(data)
        if any(name in value for name in noted):
            data = msgpack.packb({name: one for name, one in value.items() if name not in noted})
    digest: bytes = xxhash.xxh3_128_digest(data)
    return digest


class VmState:
    """One partition of vm.state."""

    def __init__(self, report: Report, partition: int) -> None:
        self._report, self._partition = report, partition
        self._heads: dict[str, Head] = {}
        self._rows: dict[str, dict[str, Row]] = {}
        """VM -> rest of the key -> row."""

    def read(self, messages: Iterable[Message]) -> None:
        """Take the partition."""
        for message in messages:
            self._report.looked_at["records of vm.state"] += 1
            key = (message.key or b"").decode("ascii", "replace")
            if key.startswith("#"):
                continue
            vm, _, rest = key.partition("/")
            try:
                if rest:
                    self._take_row(vm, rest, message)
                else:
                    self._take_head(vm, message)
            except (Unreadable, KeyError, TypeError, ValueError, AttributeError) as problem:
                self._found(Kind.DIFFERING, "I1", f"unreadable: {type(problem).__name__} {problem}", vm, message.offset)

    def _take_head(self, vm: str, message: Message) -> None:
        head = self._heads.setdefault(vm, Head())
        head.offset = message.offset
        if message.value is None:
            if not head.removed:
                self._found(Kind.WRONGLY_DELETED, "I1", "its head was deleted, it was not removed", vm, message.offset)
            head.order = None
            return
        value = unpack_map(message.value)
        head.order = (value["incarnation"], value["version"], value.get("applied", 0))
        head.highest = max(head.highest, head.order)
        head.removed = value["status"] == "removed"
        end, available = value.get("exit"), value["availability"]
        head.look = (
            value["status"], tuple(available.get("reasons", ())), value.get("host_id"),
            value.get("ownership_epoch", 0), value.get("run_id"),
            None if end is None else tuple(end.get(name) for name in _REASONS),
        )  # fmt: skip
        head.digest, head.owner = value.get("digest", 0), value.get("host_id")
        head.values = (value.get("detected_at", 0), value.get("observed_at", 0), value.get("managed", {}))
        head.published = value.get("facets", {})
        head.marks = {
            f"{claim['host_id']}/{name}": mark[1]
            for claim in value.get("claims", ())
            for name, mark in claim.get("facets", {}).items()
        }

    def _take_row(self, vm: str, rest: str, message: Message) -> None:
        rows = self._rows.setdefault(vm, {})
        if message.value is None:
            rows.pop(rest, None)
            return
        value = unpack_map(message.value)
        order = (value["incarnation"], value["version"], value["applied"])
        known = rows.get(rest)
        data, fingerprint = value["value"], value["fingerprint"]
        facet = rest.rpartition("/")[2]
        normal = marks_of_bytes(facet, data).normal if data else None
        if data and fingerprint_of(facet, data) != fingerprint:
            self._found(Kind.DIFFERING, "I1", f"row {rest}: its bytes have another fingerprint", vm, message.offset)
        if known is not None and order < known.order:
            self._report.looked_at["rows that went back"] += 1
        rows[rest] = Row(order, message.offset, fingerprint, normal)

    def compare(self, history: History, *, quiet: bool) -> None:
        """Compare with the fold of vm.changes at its end."""
        if not quiet:
            return
        for vm, folded in history.subjects.items():
            if folded.partition != self._partition:
                continue
            head = self._heads.get(vm)
            if head is None:
                self._found(Kind.LOST, "I1", "its head was never written", vm, None)
            elif head.order is not None:
                self._compare_head(vm, head, folded)
        for vm in self._heads.keys() - history.subjects.keys():
            self._found(Kind.FOREIGN, "I1", "a head of a VM that vm.changes does not know", vm, self._heads[vm].offset)
        for vm, rows in self._rows.items():
            self._compare_rows(vm, self._heads.get(vm), rows, history.subjects.get(vm))

    def _compare_head(self, vm: str, head: Head, folded: Folded) -> None:
        order, last = head.order, folded.last
        assert order is not None
        self._report.looked_at["heads compared"] += 1
        if order < head.highest:
            what = f"version {order[0]}:{order[1]} was written after {head.highest[0]}:{head.highest[1]}, and stayed"
            self._found(Kind.WENT_BACK, "I6", what, vm, head.offset)
            return
        if order[:2] != (last.incarnation, last.version):
            kind = Kind.STALE if order[:2] < (last.incarnation, last.version) else Kind.FOREIGN
            what = f"version {order[0]}:{order[1]}, vm.changes ends with {last.incarnation}:{last.version}"
            self._found(kind, "I1", what, vm, head.offset)
            return
        if head.look != last.look or head.digest != last.digest:
            what = f"is {head.look}, vm.changes says {last.look}" if head.look != last.look else "has another digest"
            self._found(Kind.DIFFERING, "I1", what, vm, head.offset)
        elif head.values != (last.detected_at, last.observed_at, folded.managed):
            self._found(Kind.DIFFERING, "I1", "has other times or managed fields", vm, head.offset)
        if head.published.keys() != folded.facets.keys():
            what = f"names facets {sorted(head.published)}, {sorted(folded.facets)} were published"
            self._found(Kind.DIFFERING, "I1", what, vm, head.offset)

    def _compare_rows(self, vm: str, head: Head | None, rows: Mapping[str, Row], folded: Folded | None) -> None:
        if head is None or head.order is None:
            for rest, row in rows.items():
                self._found(Kind.NOT_DELETED, "I1", f"row {rest} is left of a VM without head", vm, row.offset)
            return
        for rest, row in rows.items():
            if rest not in head.marks:
                what = f"row {rest} is left, no claim names it"
                self._found(Kind.NOT_DELETED, "I1", what, vm, row.offset)
            elif row.order[:2] > head.order[:2]:
                what = f"row {rest} is of version {row.order[0]}:{row.order[1]}, above its head"
                self._found(Kind.FOREIGN, "I6", what, vm, row.offset)
            elif row.fingerprint != head.marks[rest]:
                self._found(Kind.STALE, "I1", f"row {rest} is not the one its head names", vm, row.offset)
            elif folded is not None and head.owner is not None and rest.startswith(head.owner + "/"):
                self._compare_published(vm, rest.rpartition("/")[2], row, folded)
        for rest, fingerprint in head.marks.items():
            if fingerprint and rest not in rows:
                self._found(Kind.LOST, "I1", f"row {rest}, which its head names, was never written", vm, head.offset)

    def _compare_published(self, vm: str, facet: str, row: Row, folded: Folded) -> None:
        shown = folded.facets.get(facet)
        if shown is not None and shown.marks.normal != row.normal:
            self._found(Kind.DIFFERING, "I1", f"facet {facet} is not the one published", vm, row.offset)

    def _found(self, kind: Kind, invariant: str, what: str, vm: str, offset: int | None) -> None:
        order = self._heads[vm].order if vm in self._heads else None
        self._report.add(
            Finding(
                kind=kind,
                invariant=invariant,
                what=what,
                topic=VM_STATE,
                partition=self._partition,
                offset=offset,
                vm=vm,
                incarnation=None if order is None else order[0],
                version=None if order is None else order[1],
            )
        )


class HostState:
    """All of host.state."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._last: dict[str, tuple[int, int, dict[str, Any], tuple[int, int]]] = {}

    def read(self, partition: int, messages: Iterable[Message]) -> None:
        """Take a partition."""
        for message in messages:
            self._report.looked_at["records of host.state"] += 1
            host = (message.key or b"").decode("ascii", "replace")
            try:
                value = unpack_map(message.value or b"")
                order = (value["incarnation"], value["version"])
            except (Unreadable, KeyError) as problem:
                self._found(Kind.DIFFERING, f"unreadable: {problem}", host, partition, message.offset)
                continue
            known = self._last.get(host)
            highest = order if known is None else max(order, known[3])
            self._last[host] = (partition, message.offset, value, highest)

    def compare(self, history: History, *, quiet: bool) -> None:
        """Compare with the fold of host.changes at its end."""
        if not quiet:
            return
        for host in history.subjects.keys() - self._last.keys():
            self._found(Kind.LOST, "its state was never written", host, None, None)
        for host, (partition, offset, value, highest) in self._last.items():
            folded = history.subjects.get(host)
            place = (host, partition, offset)
            if folded is None:
                self._found(Kind.FOREIGN, "host.changes does not know this host", *place)
                continue
            self._report.looked_at["hosts compared"] += 1
            order, last = (value["incarnation"], value["version"]), folded.last
            if order < highest:
                self._found(Kind.WENT_BACK, f"version {order} was written after {highest}, and stayed", *place)
            elif order != (last.incarnation, last.version):
                kind = Kind.STALE if order < (last.incarnation, last.version) else Kind.FOREIGN
                what = f"version {order}, host.changes ends with {(last.incarnation, last.version)}"
                self._found(kind, what, *place)
            elif _differs(value, folded):
                self._found(Kind.DIFFERING, "is not what host.changes says", *place)

    def _found(self, kind: Kind, what: str, host: str, partition: int | None, offset: int | None) -> None:
        self._report.add(
            Finding(
                kind=kind, invariant="I1 I6", what=what, topic=HOST_STATE, partition=partition, offset=offset, host=host
            )
        )


def _differs(value: Mapping[str, Any], folded: Folded) -> bool:
    look = (
        value["reachability"]["state"], value["confirmed"], tuple(value["flags"]), value["machine_id"],
        value["boot_id"], value["agent_epoch"],
    )  # fmt: skip
    facets = {name: marks_of(name, one).normal for name, one in value["facets"].items()}
    return (
        look != folded.last.look
        or value["state_digest"] != folded.last.digest
        or facets != {name: shown.marks.normal for name, shown in folded.facets.items()}
    )
