"""Every cell of the table of rules §5, played through the core: the owner stands so, the other host says that."""

from typing import NamedTuple

import pytest

from schemas.ids import uuid_text
from schemas.status import ALIVE, Doubt, Status
from streams.vms.ownership import OWNERSHIP, Standing, Word
from tests.unit.streams.vms.scene import Scene, host_id, run

SAYINGS: dict[Word, list[tuple[str, dict[str, str]]]] = {
    Word.RUNNING: [
        ("up", {}),
        ("powering_up", {}),
        ("powering_down", {}),
        ("rebooting", {}),
        ("not_responding", {}),
        ("saving", {}),
        ("migrating_from", {"phase": "pre_copy"}),
    ],
    Word.STARTING: [("starting", {}), ("restoring", {})],
    Word.INCOMING: [("migrating_to", {})],
    Word.PAUSED: [("paused", {"pause": "user"}), ("paused", {"pause": "io_error"})],
    Word.POST_COPY: [
        ("paused", {"pause": "post_copy", "phase": "post_copy"}),
        ("migrating_from", {"phase": "post_copy"}),
    ],
    Word.DEFINED: [("down", {}), ("suspended", {}), ("crashed", {})],
}
"""Every status that a host can say, by its row."""


class Outcome(NamedTuple):
    """What the cell of the rule book says."""

    owner: str
    conflict: bool = False
    same_run: bool = True


STAYS = Outcome("S")
ADOPTED = Outcome("D", same_run=False)
CONFLICT = Outcome("S", conflict=True)

TABLE: dict[Word, dict[Standing, Outcome]] = {
    Word.RUNNING: {Standing.ENDED: ADOPTED, Standing.UNKNOWN: ADOPTED, Standing.KNOWN: CONFLICT},
    Word.STARTING: {Standing.ENDED: ADOPTED, Standing.UNKNOWN: STAYS, Standing.KNOWN: STAYS},
    Word.INCOMING: {Standing.ENDED: STAYS, Standing.UNKNOWN: STAYS, Standing.KNOWN: STAYS},
    Word.PAUSED: {Standing.ENDED: ADOPTED, Standing.UNKNOWN: ADOPTED, Standing.KNOWN: CONFLICT},
    Word.POST_COPY: {Standing.ENDED: STAYS, Standing.UNKNOWN: STAYS, Standing.KNOWN: STAYS},
    Word.DEFINED: {Standing.ENDED: STAYS, Standing.UNKNOWN: STAYS, Standing.KNOWN: STAYS},
}

CELLS = [
    pytest.param(word, standing, status, what, id=f"{standing.value}-{status}-{'-'.join(what.values())}")
    for word, columns in TABLE.items()
    for standing in columns
    for status, what in SAYINGS[word]
]


def stage(standing: Standing) -> Scene:
    """S owns the VM, or nobody knows it; both hosts are settled."""
    scene = Scene()
    scene.host("S", 0)
    scene.host("D", 1)
    scene.tick(20)
    if standing is Standing.NOBODY:
        return scene
    scene.see("S", "up")
    if standing is Standing.ENDED:
        scene.see("S", "down", exit_="normal/guest_shutdown")
    elif standing is Standing.UNKNOWN:
        scene.say("S", events=["silent"])
    return scene


@pytest.mark.parametrize(("word", "standing", "status", "what"), CELLS)
def test_cell(word: Word, standing: Standing, status: str, what: dict[str, str]) -> None:
    scene = stage(standing)
    before = scene.last
    scene.tell("D", run(status, host="D", **what))
    expected = TABLE[word][standing]
    after = scene.last
    assert after.host_id == uuid_text(host_id(expected.owner))
    assert (Doubt.CONFLICT in after.availability.reasons) is expected.conflict
    assert (after.run_id == before.run_id) is expected.same_run
    assert after.ownership_epoch == before.ownership_epoch + (expected.owner == "D")
    if expected == STAYS:
        assert after == before


@pytest.mark.parametrize("standing", [Standing.UNKNOWN, Standing.KNOWN])
@pytest.mark.parametrize(("status", "what"), [*SAYINGS[Word.RUNNING]])
def test_a_migration_hands_over(standing: Standing, status: str, what: dict[str, str]) -> None:
    """Its claim was `migrating_to`: the same run goes on there."""
    scene = stage(Standing.KNOWN)
    scene.see("D", "migrating_to")
    if standing is Standing.UNKNOWN:
        scene.say("S", events=["silent"])
    before = scene.last
    scene.tell("D", run(status, host="D", **what))
    assert scene.last.host_id == uuid_text(host_id("D"))
    assert scene.last.run_id == before.run_id
    assert scene.last.cause == "handed_over"


@pytest.mark.parametrize("standing", [Standing.UNKNOWN, Standing.KNOWN])
def test_first_evidence_that_says_migrated_hands_over(standing: Standing) -> None:
    scene = stage(standing)
    scene.see("D", "up", reason="migrated")
    assert scene.last.cause == "handed_over"


def test_the_named_peer_takes_over_from_an_unknown_owner() -> None:
    scene = stage(Standing.KNOWN)
    scene.see("S", "migrating_from", peer="D", phase="pre_copy")
    scene.say("S", events=["silent"])
    run_id = scene.last.run_id
    scene.see("D", "up")
    assert (scene.last.cause, scene.last.run_id) == ("handed_over", run_id)


def test_anybody_running_takes_over_from_a_known_owner_that_migrates_out() -> None:
    scene = stage(Standing.KNOWN)
    scene.see("S", "migrating_from", phase="pre_copy")
    scene.see("D", "up")
    assert scene.last.cause == "handed_over"


def test_two_that_migrate_out_are_a_conflict() -> None:
    scene = stage(Standing.KNOWN)
    scene.see("S", "migrating_from", phase="pre_copy")
    scene.see("D", "migrating_from", phase="pre_copy")
    assert scene.last.cause == "conflict"


def test_who_lost_this_run_by_adoption_does_not_take_it_back() -> None:
    scene = stage(Standing.UNKNOWN)
    scene.see("D", "up")
    scene.say("D", events=["silent"])
    scene.see("S", "up", reason="still", events=["back", "confirmed"])
    assert scene.last.host_id == uuid_text(host_id("D"))
    assert scene.last.availability.reason is Doubt.CONFLICT


@pytest.mark.parametrize(
    ("status", "what"), [(status, what) for sayings in SAYINGS.values() for status, what in sayings]
)
def test_nobody_knows_the_vm(status: str, what: dict[str, str]) -> None:
    """A6, O8: whatever a host says makes a row, and an alive one has an owner."""
    scene = stage(Standing.NOBODY)
    scene.tell("D", run(status, host="D", **what))
    change = scene.last
    assert (change.cause, change.version, change.host_id) == ("created", 1, uuid_text(host_id("D")))
    assert change.status is Status(status)
    assert (change.run_id is not None) is (change.status in ALIVE)


def test_gone_of_another_host_ends_its_claim_only() -> None:
    scene = stage(Standing.KNOWN)
    scene.see("D", "down")
    before = scene.last
    scene.gone("D", "undefined")
    assert scene.last == before
    assert [claim.host for vm in scene.core.state.vms.values() for claim in vm.claims] == [host_id("S")]


def test_the_table_has_a_verdict_in_every_cell() -> None:
    assert {word: set(columns) for word, columns in OWNERSHIP.items()} == {word: set(Standing) for word in Word}


def test_every_status_has_a_row() -> None:
    said = {status for sayings in SAYINGS.values() for status, _ in sayings}
    assert said == {status.value for status in Status} - {"removed"}
