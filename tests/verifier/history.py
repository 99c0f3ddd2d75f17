"""Folds a topic of changes subject by subject, and finds what such a history must never have.

Per subject (a VM, or a host):

- the record's key is the subject's id and its partition the key's;
- a record at or below the last (incarnation, version) is a repeat: allowed when its bytes are those of the first time
  (I11; by other rules: when the row of history would differ in their version alone), else `differing`; one that was
  never there before is `out_of_order`;
- versions of an incarnation count from 1: what never comes is a `hole` (I1);
- `previous_digest` is the digest before (0 before version 1), else `broken_chain`;
- `detected_at` never falls, and evidence of one host never lies before earlier evidence of it, else `out_of_order`;
- a change differs from the state before it in what is shown, else it is `duplicated` (I3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tests.verifier.changes import Change, under
from tests.verifier.facets import Marks
from tests.verifier.findings import Finding, Kind, Report
from tests.verifier.logs import Message
from tests.verifier.records import Unreadable, hash64, partition_of

_LISTED_HOLE = 1000
"""A jump over more versions than this is one finding."""


class Stored(NamedTuple):
    """What is remembered of each distinct change."""

    data: int
    """Hash of the record's bytes."""
    row: int
    """Hash of the row that must come of it."""
    partition: int
    offset: int
    """Of its first appearance."""
    digest: int
    """Of the state after it."""
    rules: int


class Shown(NamedTuple):
    """A facet as it was last published."""

    marks: Marks
    changed_at: int


class Folded:
    """A subject after its last change."""

    __slots__ = ("evidence", "facets", "last", "managed", "managed_at", "missing", "offset", "partition")

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.last: Change
        self.offset = -1
        self.facets: dict[str, Shown] = {}
        self.managed: dict[str, Any] = {}
        self.managed_at = 0
        self.evidence: dict[str, tuple[int, int, int]] = {}
        self.missing: dict[tuple[int, int], int] | None = None
        """Versions jumped over, with the offset of what came instead."""


Key = tuple[str, int, int]
"""(subject, incarnation, version)."""


class History:
    """All changes of one topic."""

    def __init__(self, report: Report, topic: str, subject: str, partitions: int, *, whole: bool) -> None:
        """`subject`: vm or host. `whole`: the topic still begins at offset 0."""
        self.subjects: dict[str, Folded] = {}
        self.distinct: dict[Key, Stored] = {}
        self._report, self._topic, self._subject = report, topic, subject
        self._partitions, self._whole = partitions, whole

    def read(
        self, partition: int, messages: Iterable[Message], decode: Callable[[bytes], Change]
    ) -> Iterator[tuple[int, Change]]:
        """Fold a partition; yields each distinct change with its offset, in log order."""
        for message in messages:
            self._report.looked_at[f"records of {self._topic}"] += 1
            try:
                if message.value is None:
                    raise Unreadable("no value")
                change = decode(message.value)
            except Unreadable as problem:
                self._found(Kind.DIFFERING, "I1", f"unreadable: {problem}", partition, message.offset, None)
                continue
            if self._take(partition, message, change, decode):
                yield message.offset, change

    def close(self) -> None:
        """Everything was read: what is still missing is a hole."""
        for subject, folded in self.subjects.items():
            for (incarnation, version), offset in (folded.missing or {}).items():
                self._report.add(
                    Finding(
                        kind=Kind.HOLE,
                        invariant="I1",
                        what="this version was never published; its successor stands here",
                        topic=self._topic,
                        partition=folded.partition,
                        offset=offset,
                        incarnation=incarnation,
                        version=version,
                        **self._named(subject),
                    )
                )

    def _named(self, subject: str) -> dict[str, Any]:
        return {self._subject: subject}

    def _found(self, kind: Kind, invariant: str, what: str, partition: int, offset: int, change: Change | None) -> None:
        named = (
            {}
            if change is None
            else self._named(change.subject) | {"incarnation": change.incarnation, "version": change.version}
        )
        self._report.add(
            Finding(
                kind=kind,
                invariant=invariant,
                what=what,
                topic=self._topic,
                partition=partition,
                offset=offset,
                **named,
            )
        )

    def _take(self, partition: int, message: Message, change: Change, decode: Callable[[bytes], Change]) -> bool:
        assert message.value is not None
        key = (change.subject, change.incarnation, change.version)
        data = hash64(message.value)
        known = self.distinct.get(key)
        place = (partition, message.offset, change)
        if known is not None:
            self._report.looked_at[f"repeats in {self._topic}"] += 1
            if known.rules != change.rules:
                self._report.looked_at[f"repeats in {self._topic} by other rules"] += 1
                if decode(under(known.rules, message.value)).row != known.row:
                    what = f"published before, at {known.offset}, by rules {known.rules}, and not the same"
                    self._found(Kind.DIFFERING, "I11", what, *place)
            elif known.data != data:
                self._found(Kind.DIFFERING, "I11", f"published before, at {known.offset}, with other bytes", *place)
            return False
        if change.change_id != f"{change.subject}:{change.incarnation}:{change.version}":
            self._found(Kind.DIFFERING, "I3", f"its change_id is {change.change_id!r}", *place)
        self.distinct[key] = Stored(data, change.row, partition, message.offset, change.digest, change.rules)
        folded = self.subjects.get(change.subject)
        if folded is None:
            folded = self.subjects[change.subject] = Folded(partition)
            self._check_place(partition, message, change)
            self._check_first(folded, place)
        elif not self._follows(folded, place):
            return False
        self._check_evidence(folded, place)
        self._apply(folded, change, message.offset)
        return True

    def _check_place(self, partition: int, message: Message, change: Change) -> None:
        key = change.subject.encode()
        if message.key != key:
            self._found(Kind.FOREIGN, "I1", f"its key is {message.key!r:.60}", partition, message.offset, change)
        elif partition_of(key, self._partitions) != partition:
            self._found(Kind.FOREIGN, "I1", "it belongs to another partition", partition, message.offset, change)

    def _check_first(self, folded: Folded, place: tuple[int, int, Change]) -> None:
        change = place[2]
        if self._whole:
            self._note_missing(folded, place, 1)
            if change.version == 1 and change.previous_digest != 0:
                self._found(Kind.BROKEN_CHAIN, "I1", "version 1 follows a digest", *place)

    def _follows(self, folded: Folded, place: tuple[int, int, Change]) -> bool:
        """False for what comes too late to be folded."""
        change, last = place[2], folded.last
        order, before = (change.incarnation, change.version), (last.incarnation, last.version)
        if order < before:
            if folded.missing is not None:
                folded.missing.pop(order, None)
            what = f"comes after version {last.incarnation}:{last.version}"
            self._found(Kind.OUT_OF_ORDER, "I1 I6", what, *place)
            return False
        fresh = change.incarnation != last.incarnation
        expected = 1 if fresh else last.version + 1
        if change.version > expected:
            self._note_missing(folded, place, expected)
        elif change.previous_digest != (0 if fresh else last.digest):
            what = "its previous_digest is not the digest of the version before"
            self._found(Kind.BROKEN_CHAIN, "I1", what, *place)
        if change.detected_at < last.detected_at:
            self._found(Kind.OUT_OF_ORDER, "I1", "detected_at fell", *place)
        if not fresh and self._shows_nothing(folded, change):
            self._found(Kind.DUPLICATED, "I3", "shows nothing that the version before did not", *place)
        return True

    def _note_missing(self, folded: Folded, place: tuple[int, int, Change], expected: int) -> None:
        _, offset, change = place
        if change.version - expected > _LISTED_HOLE:
            self._found(Kind.HOLE, "I1", f"version {expected} was expected", *place)
            return
        for version in range(expected, change.version):
            folded.missing = folded.missing or {}
            folded.missing[change.incarnation, version] = offset

    @staticmethod
    def _shows_nothing(folded: Folded, change: Change) -> bool:
        if change.look != folded.last.look or change.managed:
            return False
        for name, marks in change.facets.items():
            before = folded.facets.get(name)
            if (None if before is None else before.marks.normal) != (None if marks is None else marks.normal):
                return False
        return True

    def _check_evidence(self, folded: Folded, place: tuple[int, int, Change]) -> None:
        evidence = place[2].evidence
        if evidence.host is None:
            return
        at = (evidence.log, evidence.partition, evidence.offset)
        before = folded.evidence.get(evidence.host)
        if before is not None and before[:2] == at[:2] and at < before:
            what = f"its evidence, host.reports[{at[1]}]@{at[2]}, lies before what was published of the same host"
            self._found(Kind.OUT_OF_ORDER, "I1", what, *place)
        folded.evidence[evidence.host] = at

    @staticmethod
    def _apply(folded: Folded, change: Change, offset: int) -> None:
        fresh = folded.offset >= 0 and folded.last.incarnation != change.incarnation
        if fresh or change.status == "removed":
            folded.facets = {}
        for name, marks in change.facets.items():
            if marks is None:
                folded.facets.pop(name, None)
            else:
                folded.facets[name] = Shown(marks, change.detected_at)
        if change.managed:
            folded.managed.update(change.managed)
            folded.managed_at = change.detected_at
        folded.last, folded.offset = change, offset


def facets_shown(folded: Folded) -> Mapping[str, int]:
    """Normal marks of the facets that a subject shows."""
    return {name: shown.marks.normal for name, shown in folded.facets.items()}
