"""What a rollback has to do: which partitions, and which inputs follow newer rules (fault W3)."""

from __future__ import annotations

import msgspec
import pytest

from infra.rebuild.rollback import Rollback, Standing, rules_of_observations, rules_of_tick
from schemas.codec import NewerMajorError, encode, header_of
from schemas.intent import INTENT_KEY
from schemas.observation import ObservationBatch
from schemas.tick import TICK_KEY, Tick
from streams.runtime.stage import Input

BATCH = ObservationBatch(source=0, log=0, tick=1, tick_at=1, rules_version=2)
TICK = Tick(n=1, owner=bytes(16), rules_version=2, mac=bytes(32))


def standing(rules: int, newer_until: int = 0, needed_until: int = 0) -> Standing:
    return Standing(partition=3, rules=rules, newer_until=newer_until, needed_until=needed_until)


def rollback(*standings: Standing) -> Rollback:
    return Rollback(stage="vms", to_rules=1, found={}, standings=standings)


def given(record: Tick | ObservationBatch, key: bytes, schema: bytes | None = None) -> Input:
    return Input(0, 7, 0, key, encode(record), schema or header_of(type(record)))


@pytest.mark.parametrize(
    ("one", "due"),
    [
        (standing(0), False),
        (standing(1), False),
        (standing(2), True),
        (standing(1, needed_until=9), True),
        (standing(1, newer_until=9, needed_until=9), False),
        (standing(1, newer_until=9, needed_until=10), True),
    ],
    ids=["new", "back", "newer rules", "newer inputs", "inputs noted", "more inputs"],
)
def test_what_an_older_worker_would_refuse_is_due(one: Standing, due: bool) -> None:
    plan = rollback(one)
    assert plan.due == ([one] if due else [])
    assert ("nothing to do" in " ".join(plan.sentences())) is not due


def test_it_says_which_partition_and_which_inputs() -> None:
    assert rollback(standing(2, needed_until=9)).sentences() == [
        "vms[3] follows rules 2: it goes back to 1",
        "vms[3] has inputs of newer rules before offset 9: they are taken",
    ]


def test_rules_of_inputs() -> None:
    assert rules_of_tick(given(TICK, TICK_KEY)) == 2
    assert rules_of_observations(given(BATCH, b"0")) == 2


def test_what_follows_no_rules_has_none() -> None:
    assert rules_of_tick(given(TICK, b"a host")) == 0
    assert rules_of_tick(Input(0, 7, 0, TICK_KEY, b"\xc1", b"Tick/1.0")) == 0
    assert rules_of_observations(given(BATCH, INTENT_KEY)) == 0
    assert rules_of_observations(Input(0, 7, 0, b"0", b"\xc1", header_of(ObservationBatch))) == 0


def test_observations_that_this_version_can_not_read_are_an_error() -> None:
    with pytest.raises(NewerMajorError):
        rules_of_observations(given(BATCH, b"0", b"ObservationBatch/2.0"))
    with pytest.raises(NewerMajorError):
        rules_of_observations(given(msgspec.structs.replace(BATCH, source="a word"), b"0", b"ObservationBatch/1.99"))
