"""A batch of changes as what has to be written: per subject the last state of each run of versions, and the history.

Versions of an incarnation count from 1 without holes, and each change names the digest before and after it. So a
stretch of changes needs one guarded write: it applies exactly when the row stands at the version (and digest) just
before the stretch. Whoever applied part of it before, or misses a change between, is caught by the row count.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from infra.runtime.errors import FatalError
from schemas.status import Status
from schemas.vm_change import VmChange
from sinks.postgres.incoming import Change, Incoming


class Known(msgspec.Struct, frozen=True, gc=False):
    """Where a subject's row stands. `digest` is unsigned."""

    incarnation: int
    version: int
    digest: int


class Missing(FatalError):
    """Changes of a subject are missing before one that arrived. Applying what follows would hide the loss."""


class FacetValue(msgspec.Struct, frozen=True, gc=False):
    """Last value of a facet within a stretch; `after` None: the row goes."""

    after: Any
    changed_at: int


class Stretch:
    """Consecutive changes of one subject within one incarnation, folded."""

    __slots__ = ("facets", "first", "last", "managed", "managed_at", "partition", "removed", "round", "subject_id")

    def __init__(self, item: Incoming, round_: int) -> None:
        self.subject_id = item.subject_id
        self.partition = item.partition
        self.round = round_
        self.first: Change = item.change
        self.last: Change = item.change
        self.facets: dict[str, FacetValue] = {}
        self.managed: dict[str, Any] = {}
        self.managed_at = 0
        self.removed = False
        """The VM was removed in this stretch: facets from before it do not outlive it."""
        self._fold(item)

    @property
    def begins(self) -> bool:
        """True when this is the beginning of an incarnation: an earlier one's facets do not outlive it."""
        return self.first.version == 1

    def extend(self, item: Incoming) -> None:
        """Fold the next change in."""
        self.last = item.change
        self._fold(item)

    def _fold(self, item: Incoming) -> None:
        change = item.change
        if isinstance(change, VmChange):
            if change.status is Status.REMOVED:
                self.removed = True
                self.facets.clear()
            if change.managed:
                self.managed.update(change.managed)
                self.managed_at = change.detected_at
        for name, facet in item.facets.items():
            self.facets[name] = FacetValue(facet.after, change.detected_at)


class Coalesced(msgspec.Struct, frozen=True):
    """What a batch comes to."""

    rounds: list[list[Stretch]]
    """Stretches to write one round after the other: a subject is in a round at most once. A second round is needed
    only when a subject got a new incarnation within the batch."""
    history: list[Incoming]
    """The new changes, in order of arrival."""
    repeats: int
    stale: int
    """Changes of an older incarnation than one already seen: dropped, and worth an alert."""


def coalesce(items: Iterable[Incoming], known: Mapping[str, Known] | None = None) -> Coalesced:
    """Fold a batch.

    With `known`, the rows' versions, what they already hold is dropped and a hole before the first new change is
    found; without it the first change of each subject is taken as new, and the guard of the write has to prove it.
    Raises Missing for a hole.
    """
    latest: dict[str, Stretch] = {}
    rounds: list[list[Stretch]] = []
    history: list[Incoming] = []
    repeats = stale = 0
    for item in items:
        change = item.change
        stretch = latest.get(item.subject_id)
        at = _standing(stretch) if stretch is not None else known.get(item.subject_id) if known is not None else None
        if at is not None and (change.incarnation, change.version) <= (at.incarnation, at.version):
            repeats += 1
            stale += change.incarnation < at.incarnation
            continue
        if at is not None or known is not None:
            _require_next(item, at)
        history.append(item)
        if stretch is not None and change.incarnation == stretch.last.incarnation:
            stretch.extend(item)
            continue
        begun = Stretch(item, 0 if stretch is None else stretch.round + 1)
        latest[item.subject_id] = begun
        if begun.round == len(rounds):
            rounds.append([])
        rounds[begun.round].append(begun)
    return Coalesced(rounds, history, repeats, stale)


def _standing(stretch: Stretch) -> Known:
    last = stretch.last
    return Known(last.incarnation, last.version, last.state_digest)


def _require_next(item: Incoming, at: Known | None) -> None:
    change = item.change
    if at is None or change.incarnation > at.incarnation:
        if change.version == 1:
            return
        expected = f"version 1 of incarnation {change.incarnation}"
    elif change.version != at.version + 1:
        expected = f"version {at.version + 1}"
    elif change.previous_digest != at.digest:
        expected = f"a change that follows digest {at.digest:016x}"
    else:
        return
    raise Missing(
        f"changes of {item.subject_id} are missing: expected {expected}, found version {change.version} of "
        f"incarnation {change.incarnation}",
        where=f"{change.SCHEMA.record} at partition {item.partition}, offset {item.offset}",
        advice="nothing of this batch was written; the topic no longer holds what the database lacks, "
        "so the rows have to be rebuilt from vm.state",
    )
