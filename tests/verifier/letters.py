"""dead.letters: what nobody could use is there once, and nothing else is (I9).

- every record of host.reports that breaks the rules of the trust boundary is there (`lost`), with its own bytes;
- every record that is there for that reason does break them (`foreign`);
- the number of distinct letters (by topic, partition, offset, key and bytes: a restart repeats) is the number of
  poisoned records and facets that were injected, when the harness says how many.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.verifier.admission import Admission
from tests.verifier.findings import Finding, Kind, Report
from tests.verifier.logs import DEAD_LETTERS, HOST_REPORTS, Message
from tests.verifier.records import hash64, raw_of

_MALFORMED = b"malformed"
_MALFORMED_FACET = b"malformed_facet"
_OF_FACETS = frozenset({_MALFORMED_FACET, b"facet_unknown", b"facet_too_large", b"facet_malformed", b"too_many_facets"})


class DeadLetters:
    """All letters, by what they are about."""

    def __init__(self, report: Report) -> None:
        self.facets: set[tuple[int, int, bytes, int]] = set()
        """(source, offset, VM, hash of the bytes) of facets that the vms stage could not read."""
        self.places: set[tuple[int, int]] = set()
        """Records of host.reports that something was put aside of."""
        self.records: set[tuple[int, int]] = set()
        """Those of which the whole record was."""
        self._malformed: set[tuple[int, int]] = set()
        self._distinct: set[tuple[bytes, bytes, bytes, bytes, int]] = set()
        self._report = report

    def read(self, partition: int, messages: Iterable[Message]) -> None:
        """Take a partition."""
        for message in messages:
            self._report.looked_at["dead letters"] += 1
            headers, key, data = message.headers, message.key or b"", message.value or b""
            topic, reason = headers.get("dlq.topic", b""), headers.get("dlq.reason", b"")
            at = (headers.get("dlq.partition", b""), headers.get("dlq.offset", b""))
            if not (topic and reason and at[0].isdigit() and at[1].isdigit()):
                self._found(Kind.DIFFERING, "its headers do not say where it comes from", partition, message.offset)
                continue
            self._distinct.add((topic, *at, key + reason, hash64(data)))
            if topic != HOST_REPORTS.encode():
                continue
            place = (int(at[0]), int(at[1]))
            self.places.add(place)
            if reason not in _OF_FACETS:
                self.records.add(place)
            if reason == _MALFORMED:
                self._malformed.add(place)
            elif reason == _MALFORMED_FACET:
                self._take_facet(partition, message, place, headers.get("dlq.vm", key), data)

    def _take_facet(self, partition: int, message: Message, place: tuple[int, int], key: bytes, data: bytes) -> None:
        try:
            self.facets.add((*place, raw_of(key.decode("ascii")), hash64(data)))
        except (ValueError, UnicodeDecodeError):
            self._found(Kind.DIFFERING, "the key is not the VM's", partition, message.offset)

    def compare(self, admission: Admission, injected: int | None, *, whole: bool) -> None:
        """Compare with what the oracle of admission rejects; `whole`: all of host.reports was read."""
        if whole:
            for place in sorted(admission.rejected.keys() - self.records):
                what = f"no letter of this record, which nobody can use: {admission.rejected[place]}"
                self._found(Kind.LOST, what, *place, topic=HOST_REPORTS)
            for place in sorted(self._malformed - admission.rejected.keys()):
                self._found(Kind.FOREIGN, "put aside, though nothing is wrong with it", *place, topic=HOST_REPORTS)
        if injected is not None and len(self._distinct) != injected:
            what = f"{len(self._distinct)} distinct letters, {injected} were injected"
            self._report.add(Finding(kind=Kind.DEAD_LETTERS, invariant="I9", what=what, topic=DEAD_LETTERS))

    def _found(self, kind: Kind, what: str, partition: int, offset: int, topic: str = DEAD_LETTERS) -> None:
        self._report.add(Finding(kind=kind, invariant="I9", what=what, topic=topic, partition=partition, offset=offset))
