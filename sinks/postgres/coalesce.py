"""A batch of changes as what has to be written: per subject the last state of each run of versions, and the history.

Versions of an incarnation count from 1 without holes, and each change names the digest before and after it. So a
stretch of changes needs one guarded write: it applies exactly when the row stands at the version (and digest) just
before the stretch. Whoever applied part of it before, or misses a change between, is caught by the row count.

Where changes are missing for good, the subject's whole state (an image of its row in vm.state or host.state) takes
their place: one stretch that replaces the row, one row in the history that says so.
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
    """Changes of subjects are missing before one that arrived. Applying what follows would hide the loss."""

    def __init__(self, arrived: Mapping[str, Incoming], expected: str) -> None:
        """`arrived`: by subject, the first change that does not follow; `expected`: what should have come first."""
        subject_id, item = next(iter(arrived.items()))
        change = item.change
        others = f", and of {len(arrived) - 1} more" if len(arrived) > 1 else ""
        super().__init__(
            f"changes of {subject_id} are missing: expected {expected}, found version {change.version} of "
            f"incarnation {change.incarnation}{others}",
            where=f"{change.SCHEMA.record} at partition {item.partition}, offset {item.offset}",
            advice="nothing of this batch was written; the whole state is taken from the state topic",
        )
        self.arrived = arrived


class FacetValue(msgspec.Struct, frozen=True, gc=False):
    """Last value of a facet within a stretch; `after` None: the row goes."""

    after: Any
    changed_at: int


class Stretch:
    """Consecutive changes of one subject within one incarnation, folded."""

    __slots__ = (
        "facets",
        "first",
        "follows",
        "last",
        "managed",
        "managed_at",
        "partition",
        "removed",
        "repaired",
        "round",
        "subject_id",
    )

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
        self.repaired = False
        """It begins with a whole state: facets that are not in it do not outlive it."""
        self.follows = (item.change.version - 1, item.change.previous_digest)
        """Version and digest that the row must have; version 0: none, or an earlier incarnation's."""
        self._fold(item)

    @classmethod
    def of_image(cls, image: Incoming, round_: int, at: Known | None) -> "Stretch":
        """The whole state in place of what is missing after `at`."""
        stretch = cls(image, round_)
        stretch.repaired = True
        same = at is not None and at.incarnation == image.change.incarnation
        stretch.follows = (at.version, at.digest) if at is not None and same else (0, 0)
        return stretch

    @property
    def begins(self) -> bool:
        """True when this is the beginning of an incarnation: an earlier one's facets do not outlive it."""
        return self.follows[0] == 0

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
    repaired: int = 0
    """Subjects whose whole state was taken."""


def coalesce(
    items: Iterable[Incoming],
    known: Mapping[str, Known] | None = None,
    images: Mapping[str, Incoming] | None = None,
) -> Coalesced:
    """Fold a batch.

    With `known`, the rows' versions, what they already hold is dropped and a hole before the first new change is
    found; without it the first change of each subject is taken as new, and the guard of the write has to prove it.
    With `images`, whole states by subject, a hole is closed by one that is as new as the change behind it.
    Raises Missing for holes that stay.
    """
    folding = _Folding(known, images or {})
    for item in items:
        folding.take(item)
    if folding.missing:
        raise Missing(folding.missing, folding.expected)
    return Coalesced(folding.rounds, folding.history, folding.repeats, folding.stale, folding.repaired)


class _Folding:
    """A batch while it is folded."""

    def __init__(self, known: Mapping[str, Known] | None, images: Mapping[str, Incoming]) -> None:
        self._known = known
        self._images = images
        self._latest: dict[str, Stretch] = {}
        self.rounds: list[list[Stretch]] = []
        self.history: list[Incoming] = []
        self.missing: dict[str, Incoming] = {}
        self.expected = ""
        """Before the first that is missing."""
        self.repeats = self.stale = self.repaired = 0

    def take(self, item: Incoming) -> None:
        """Take the next change of the batch."""
        if item.subject_id in self.missing:
            return
        change = item.change
        stretch = self._latest.get(item.subject_id)
        at = self._standing(item.subject_id, stretch)
        if at is not None and (change.incarnation, change.version) <= (at.incarnation, at.version):
            self.repeats += 1
            self.stale += change.incarnation < at.incarnation
            return
        if at is not None or self._known is not None:
            expected = _expected(item, at)
            if expected is not None:
                self._close_hole(item, stretch, at, expected)
                return
        self.history.append(item)
        if stretch is not None and change.incarnation == stretch.last.incarnation:
            stretch.extend(item)
        else:
            self._begin(Stretch(item, _next_round(stretch)))

    def _standing(self, subject_id: str, stretch: Stretch | None) -> Known | None:
        if stretch is not None:
            last = stretch.last
            return Known(last.incarnation, last.version, last.state_digest)
        return None if self._known is None else self._known.get(subject_id)

    def _close_hole(self, item: Incoming, stretch: Stretch | None, at: Known | None, expected: str) -> None:
        """Put the whole state in the place of what is missing; the change itself is included in it."""
        image, change = self._images.get(item.subject_id), item.change
        if image is None or (image.change.incarnation, image.change.version) < (change.incarnation, change.version):
            self.expected = self.expected or expected
            self.missing[item.subject_id] = item
            return
        self.repaired += 1
        self.history.append(_marker(image, at))
        self._begin(Stretch.of_image(image, _next_round(stretch), at))

    def _begin(self, begun: Stretch) -> None:
        self._latest[begun.subject_id] = begun
        if begun.round == len(self.rounds):
            self.rounds.append([])
        self.rounds[begun.round].append(begun)


def _next_round(stretch: Stretch | None) -> int:
    return 0 if stretch is None else stretch.round + 1


def _marker(image: Incoming, at: Known | None) -> Incoming:
    """The history's row for a whole state: it follows what the row was."""
    previous = 0 if at is None else at.digest
    return msgspec.structs.replace(image, change=msgspec.structs.replace(image.change, previous_digest=previous))


def _expected(item: Incoming, at: Known | None) -> str | None:
    """What should have come instead of this change; None when it follows."""
    change = item.change
    if at is None or change.incarnation > at.incarnation:
        return None if change.version == 1 else f"version 1 of incarnation {change.incarnation}"
    if change.version != at.version + 1:
        return f"version {at.version + 1}"
    if change.previous_digest != at.digest:
        return f"a change that follows digest {at.digest:016x}"
    return None
