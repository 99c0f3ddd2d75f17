"""Coalescing: one stretch per VM and incarnation, repeats dropped, holes found."""

from __future__ import annotations

import random

import pytest

from schemas.codec import encode, header_of
from schemas.status import Status
from schemas.vm_change import VmChange
from sinks.postgres.coalesce import Known, Missing, coalesce
from sinks.postgres.incoming import Incoming, read_change
from tests.unit.sinks.change_log import START_NS, Life

VM = "4a146cf0-d98a-98e1-cf99-9661f967bdaf"
OTHER = "5a146cf0-d98a-98e1-cf99-9661f967bdaf"


def incoming(changes: list[VmChange]) -> list[Incoming]:
    header = header_of(VmChange)
    return [
        read_change(VmChange, encode(change), header, topic="vm.changes", partition=1, offset=offset)
        for offset, change in enumerate(changes)
    ]


def life(*facets: str, vm_id: str = VM, seed: int = 1) -> list[VmChange]:
    """A birth, then one change per facet named; `removed` removes."""
    one = Life(random.Random(seed), vm_id)
    changes = [one.next(START_NS)]
    for number, facet in enumerate(facets, start=1):
        at_ns = START_NS + number * 1_000_000
        if facet == "removed":
            changes.append(one.next(at_ns, status=Status.REMOVED))
        else:
            changes.append(one.next(at_ns, facet=facet))
    return changes


def known_after(change: VmChange) -> Known:
    return Known(change.incarnation, change.version, change.state_digest)


def test_one_stretch_holds_first_and_last_and_each_facet_once() -> None:
    changes = life("guest", "console", "guest")
    folded = coalesce(incoming(changes))
    ((stretch,),) = folded.rounds
    assert (stretch.first.version, stretch.last.version) == (1, 4)
    assert stretch.partition == 1
    assert stretch.begins
    assert stretch.facets.keys() == {"identity", "run", "guest", "console"}
    assert stretch.facets["guest"].changed_at == changes[3].detected_at
    assert [item.change.version for item in folded.history] == [1, 2, 3, 4]


def test_vms_are_apart() -> None:
    folded = coalesce(incoming([*life("run"), *life("run", vm_id=OTHER)]))
    assert [stretch.subject_id for stretch in folded.rounds[0]] == [VM, OTHER]
    assert len(folded.rounds) == 1


def test_repeats_within_a_batch_are_dropped() -> None:
    changes = life("guest", "console")
    folded = coalesce(incoming([*changes, *changes[1:], changes[0]]))
    assert folded.repeats == 3
    assert folded.stale == 0
    assert len(folded.history) == 3


def test_a_hole_within_a_batch_is_found() -> None:
    changes = life("guest", "console", "run")
    with pytest.raises(Missing, match=f"{VM} are missing: expected version 2, found version 3"):
        coalesce(incoming([changes[0], *changes[2:]]))


def test_a_broken_digest_chain_is_found() -> None:
    changes, others = life("guest", "console"), life("guest", "console", seed=2)
    with pytest.raises(Missing, match="follows digest"):
        coalesce(incoming([changes[0], others[1]]))


def test_a_new_incarnation_waits_for_a_round_of_its_own() -> None:
    changes = life("guest", "removed", "run", "guest")
    folded = coalesce(incoming([*changes, *life(vm_id=OTHER)]))
    first, second = folded.rounds
    assert [stretch.subject_id for stretch in first] == [VM, OTHER]
    assert [stretch.subject_id for stretch in second] == [VM]
    assert first[0].removed
    assert not first[0].facets
    assert (second[0].first.version, second[0].last.version) == (1, 2)
    assert second[0].begins


def test_a_new_incarnation_must_begin_with_its_first_version() -> None:
    changes = life("removed", "run", "guest")
    with pytest.raises(Missing, match="version 1 of incarnation"):
        coalesce(incoming([*changes[:2], changes[3]]))


def test_an_older_incarnation_is_dropped_and_counted() -> None:
    changes = life("removed", "run")
    folded = coalesce(incoming([changes[2], changes[0]]))
    assert (folded.repeats, folded.stale) == (1, 1)


def test_what_the_rows_hold_is_dropped() -> None:
    changes = life("guest", "console", "run")
    folded = coalesce(incoming(changes), {VM: known_after(changes[1])})
    assert folded.repeats == 2
    ((stretch,),) = folded.rounds
    assert (stretch.first.version, stretch.last.version) == (3, 4)


def test_all_known_is_nothing_to_do() -> None:
    changes = life("guest")
    folded = coalesce(incoming(changes), {VM: known_after(changes[-1])})
    assert (folded.rounds, folded.history) == ([], [])


def test_what_the_rows_lack_is_found() -> None:
    changes = life("guest", "console", "run")
    with pytest.raises(Missing, match="expected version 2, found version 3"):
        coalesce(incoming(changes[2:]), {VM: known_after(changes[0])})
    with pytest.raises(Missing, match="version 1 of incarnation"):
        coalesce(incoming(changes[2:]), {})


def test_without_knowledge_the_first_change_is_taken_as_new() -> None:
    ((stretch,),) = coalesce(incoming(life("guest", "run")[1:])).rounds
    assert stretch.first.version == 2
    assert not stretch.begins


def test_managed_fields_add_up() -> None:
    one = Life(random.Random(3), VM)
    changes = [one.next(START_NS + number * 1000) for number in range(40)]
    ((stretch,),) = coalesce(incoming(changes)).rounds
    wanted: dict[str, object] = {}
    for change in changes:
        wanted |= change.managed or {}
    assert stretch.managed == wanted
    assert wanted
