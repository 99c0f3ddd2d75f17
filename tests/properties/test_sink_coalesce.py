"""For every change log, however it is cut into batches and repeated, the tables end as the plain fold of the log.

The tables here are a model of what the statements do: guarded heads, facet rows, history. That the statements do it
is shown on a real server, in the integration tests, with the same logs.
"""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import encode, header_of
from schemas.status import Status
from schemas.vm_change import VmChange
from sinks.postgres.coalesce import Coalesced, Known, Missing, Stretch, coalesce
from sinks.postgres.incoming import Incoming, read_change
from tests.unit.sinks.change_log import change_log

Identity = tuple[str, int, int]


class Tables:
    """Heads, facets and history as the sink's statements would leave them."""

    def __init__(self) -> None:
        self.heads: dict[str, Known] = {}
        self.facets: dict[tuple[str, str], Any] = {}
        self.managed: dict[str, dict[str, Any]] = {}
        self.history: list[Identity] = []
        self.slow = 0

    def write(self, items: list[Incoming]) -> None:
        """One batch: optimistic first, then with the versions read, as the writer does."""
        folded = coalesce(items)
        if not self._apply(folded):
            self.slow += 1
            known = {item.subject_id: self.heads[item.subject_id] for item in items if item.subject_id in self.heads}
            assert self._apply(coalesce(items, known))

    def _apply(self, folded: Coalesced) -> bool:
        heads, facets, managed = dict(self.heads), dict(self.facets), dict(self.managed)
        for stretches in folded.rounds:
            assert len({stretch.subject_id for stretch in stretches}) == len(stretches)
            for stretch in stretches:
                if not _guard(stretch, heads.get(stretch.subject_id)):
                    return False
                self._fold(stretch, heads, facets, managed)
        self.heads, self.facets, self.managed = heads, facets, managed
        self.history += [_identity(item) for item in folded.history]
        return True

    @staticmethod
    def _fold(
        stretch: Stretch,
        heads: dict[str, Known],
        facets: dict[tuple[str, str], Any],
        managed: dict[str, dict[str, Any]],
    ) -> None:
        vm_id, last = stretch.subject_id, stretch.last
        heads[vm_id] = Known(last.incarnation, last.version, last.state_digest)
        if stretch.begins or stretch.removed:
            for key in [key for key in facets if key[0] == vm_id]:
                del facets[key]
        for name, value in stretch.facets.items():
            if value.after is None:
                facets.pop((vm_id, name), None)
            else:
                facets[vm_id, name] = value.after
        if stretch.managed:
            managed[vm_id] = {**managed.get(vm_id, {}), **stretch.managed}


def _guard(stretch: Stretch, at: Known | None) -> bool:
    first = stretch.first
    if at is None:
        return first.version == 1
    follows = (at.incarnation, at.version, at.digest) == (first.incarnation, first.version - 1, first.previous_digest)
    return follows or (at.incarnation < first.incarnation and first.version == 1)


def _identity(item: Incoming) -> Identity:
    return item.subject_id, item.change.incarnation, item.change.version


def read(log: list[VmChange]) -> list[Incoming]:
    header = header_of(VmChange)
    return [
        read_change(VmChange, encode(change), header, topic="vm.changes", partition=0, offset=offset)
        for offset, change in enumerate(log)
    ]


def fold(items: list[Incoming]) -> Tables:
    """The oracle: one change after the other, with no thought of batches."""
    tables = Tables()
    for item in items:
        change = item.change
        assert isinstance(change, VmChange)
        tables.heads[item.subject_id] = Known(change.incarnation, change.version, change.state_digest)
        if change.version == 1 or change.status is Status.REMOVED:
            for key in [key for key in tables.facets if key[0] == item.subject_id]:
                del tables.facets[key]
        for name, facet in item.facets.items():
            tables.facets.pop((item.subject_id, name), None)
            if facet.after is not None:
                tables.facets[item.subject_id, name] = facet.after
        if change.managed:
            tables.managed[item.subject_id] = {**tables.managed.get(item.subject_id, {}), **change.managed}
        tables.history.append(_identity(item))
    return tables


def repeated(items: list[Incoming], chance: random.Random) -> list[Incoming]:
    """The log of a writer that now and then goes back and says the last changes again."""
    log: list[Incoming] = []
    for end, item in enumerate(items, start=1):
        log.append(item)
        if chance.random() < 0.1:
            log += items[max(0, end - chance.randrange(1, 12)) : end]
    return log


def batches(items: list[Incoming], chance: random.Random) -> list[list[Incoming]]:
    cut = []
    while items:
        size = chance.choice((1, 2, 5, 20, 100))
        cut.append(items[:size])
        items = items[size:]
    return cut


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32), vms=st.integers(1, 6), changes=st.integers(1, 150))
def test_any_cut_of_any_log_ends_as_its_fold(seed: int, vms: int, changes: int) -> None:
    chance = random.Random(seed)
    items = read(list(change_log(seed, vms=vms, changes=changes, removals=0.1)))
    tables = Tables()
    for batch in batches(repeated(items, chance), chance):
        tables.write(batch)
    wanted = fold(items)
    assert tables.heads == wanted.heads
    assert tables.facets == wanted.facets
    assert tables.managed == wanted.managed
    assert sorted(tables.history) == sorted(wanted.history)
    assert len(set(tables.history)) == len(tables.history)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32), changes=st.integers(3, 80), data=st.data())
def test_a_change_left_out_is_never_passed_over(seed: int, changes: int, data: st.DataObject) -> None:
    chance = random.Random(seed)
    items = read(list(change_log(seed, vms=3, changes=changes, removals=0.0)))
    lost = data.draw(st.integers(0, len(items) - 1))
    log = batches(items[:lost] + items[lost + 1 :], chance)
    tables = Tables()
    found = _missing(tables, log)
    if any(item.subject_id == items[lost].subject_id for item in items[lost + 1 :]):
        assert found is not None
        assert items[lost].subject_id in found.what
    else:
        assert found is None
    known = tables.heads.get(items[lost].subject_id)
    assert known is None or known.version < items[lost].change.version


def _missing(tables: Tables, log: list[list[Incoming]]) -> Missing | None:
    """Write batches until one is found to lack something."""
    try:
        for batch in log:
            tables.write(batch)
    except Missing as missing:
        return missing
    return None
