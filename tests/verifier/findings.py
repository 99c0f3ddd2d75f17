"""What the verifier found: findings with their place, counts of what was looked at, and the verdict."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum

SHOWN_PER_KIND = 100
"""Findings of a kind kept with their place; the rest is counted, so that a lost topic does not fill the memory."""


class Kind(StrEnum):
    """What is wrong, in the words of the report."""

    LOST = "lost"
    DUPLICATED = "duplicated"
    OUT_OF_ORDER = "out_of_order"
    DIFFERING = "differing"
    HOLE = "hole"
    BROKEN_CHAIN = "broken_chain"
    WENT_BACK = "went_back"
    STALE = "stale"
    FOREIGN = "foreign"
    """Nothing that was accepted explains it."""
    NOT_DELETED = "not_deleted"
    WRONGLY_DELETED = "wrongly_deleted"
    POSITION = "position"
    DEAD_LETTERS = "dead_letters"
    ABOVE_BOUND = "above_bound"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that must not be. Fields that do not apply are None; `vm` and `host` are UUID texts."""

    kind: Kind
    invariant: str
    """Invariants it breaks, such as `I1` or `I1 I3`."""
    what: str
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    vm: str | None = None
    host: str | None = None
    incarnation: int | None = None
    version: int | None = None

    def __str__(self) -> str:
        place = [] if self.topic is None else [self.topic + ("" if self.partition is None else f"[{self.partition}]")]
        if self.offset is not None:
            place.append(f"@{self.offset}")
        subject = " ".join(f"{name} {value}" for name, value in (("VM", self.vm), ("host", self.host)) if value)
        if self.version is not None:
            subject += f" version {self.incarnation}:{self.version}"
        return f"{self.kind} ({self.invariant}): " + ", ".join(
            part for part in ("".join(place), subject.strip(), self.what) if part
        )


@dataclass(kw_only=True)
class Report:
    """All findings. `looked_at` counts what was compared, so that an empty report of an empty line shows as one."""

    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """Findings per kind, the ones not kept included."""
    looked_at: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    """What could not be checked, and why; no finding."""
    figures: dict[str, float] = field(default_factory=dict)
    """Measured elsewhere and passed in, with what was derived from them."""

    @property
    def silent(self) -> bool:
        """The verdict: nothing found."""
        return not self.counts

    def add(self, finding: Finding) -> None:
        """Take a finding."""
        self.counts[finding.kind] += 1
        if self.counts[finding.kind] <= SHOWN_PER_KIND:
            self.findings.append(finding)

    def note(self, text: str) -> None:
        """Say what limits the verdict; the same is said once."""
        if text not in self.notes:
            self.notes.append(text)

    def text(self) -> str:
        """For people: the verdict, what was looked at, then every finding on a line."""
        verdict = "silent" if self.silent else ", ".join(f"{count} {kind}" for kind, count in self.counts.items())
        looked = ", ".join(f"{count} {what}" for what, count in self.looked_at.items())
        lines = [f"verdict: {verdict}", f"looked at: {looked or 'nothing'}"]
        lines += [f"figure: {name} = {value:g}" for name, value in self.figures.items()]
        lines += [f"note: {note}" for note in self.notes]
        lines += [str(finding) for finding in self.findings]
        hidden = sum(self.counts.values()) - len(self.findings)
        return "\n".join([*lines, *([f"and {hidden} more"] if hidden else [])])

    def json(self) -> str:
        """For programs: one JSON object."""
        found: list[Mapping[str, object]] = [asdict(finding) for finding in self.findings]
        return json.dumps(
            {
                "silent": self.silent,
                "counts": dict(self.counts),
                "looked_at": dict(self.looked_at),
                "figures": self.figures,
                "notes": self.notes,
                "findings": found,
            }
        )
