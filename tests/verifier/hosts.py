"""host.changes against the oracle of admission: what must change a host does, once, and nothing else does (I1, I3).

- the first report of a host, another agent or boot, a host facet in another normal form, silence and return each make
  exactly one change with that record as evidence (`lost` without it);
- every change has a report of that host, a tick, or a gap as evidence (`foreign`), and each record makes at most one
  version (`duplicated`).
"""

from __future__ import annotations

from collections.abc import Collection

from tests.verifier.admission import Admission
from tests.verifier.changes import Change
from tests.verifier.findings import Finding, Kind, Report
from tests.verifier.logs import HOST_CHANGES, HOST_REPORTS
from tests.verifier.records import raw_of, text_of

Place = tuple[int, int, bytes]
"""(partition, offset) of the evidence, and the host."""


class HostChanges:
    """Lays the changes of hosts beside the log."""

    def __init__(self, report: Report, admission: Admission) -> None:
        self._report, self._admission = report, admission
        self._made: dict[Place, int] = {}

    def take(self, partition: int, offset: int, change: Change) -> None:
        """One distinct change, in log order."""
        evidence = change.evidence
        place = (evidence.partition, evidence.offset, raw_of(change.subject))
        if change.cause == "gap":
            return
        if place in self._made:
            self._found(Kind.DUPLICATED, "I3", "its evidence has made a version already", partition, offset, change)
        self._made[place] = offset
        known = 0 <= evidence.partition < len(self._admission.meanings)
        meaning = self._admission.meanings[evidence.partition].get(evidence.offset) if known else None
        if meaning is None:
            if not known or evidence.offset not in self._admission.tick_offsets[evidence.partition]:
                what = f"host.reports[{evidence.partition}]@{evidence.offset} was not accepted"
                self._found(Kind.FOREIGN, "I1", what, partition, offset, change)
            return
        told = (text_of(meaning.host), text_of(meaning.boot), meaning.seq)
        if (evidence.host, evidence.boot, evidence.seq) != told or evidence.host != change.subject:
            self._found(Kind.DIFFERING, "I1", "its evidence is of another report", partition, offset, change)

    def close(self, letters: Collection[tuple[int, int]]) -> None:
        """Everything was read. `letters`: records of which something was put aside, which may explain what lacks."""
        for place, why in self._admission.host_changes.items():
            self._report.looked_at["expected host changes"] += 1
            if place not in self._made and place[:2] not in letters:
                self._report.add(
                    Finding(
                        kind=Kind.LOST,
                        invariant="I1",
                        what=f"no host.change has this evidence: {why}",
                        topic=HOST_REPORTS,
                        partition=place[0],
                        offset=place[1],
                        host=text_of(place[2]),
                    )
                )

    def _found(self, kind: Kind, invariant: str, what: str, partition: int, offset: int, change: Change) -> None:
        self._report.add(
            Finding(
                kind=kind,
                invariant=invariant,
                what=what,
                topic=HOST_CHANGES,
                partition=partition,
                offset=offset,
                host=change.subject,
                incarnation=change.incarnation,
                version=change.version,
            )
        )
