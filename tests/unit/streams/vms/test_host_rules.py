"""Silence, return and confirmation of hosts (rules §3), lateness and settling (O6), partitions left out."""

import pytest

from schemas.status import Believed, Doubt, Status
from tests.unit.streams.vms.scene import Scene, brief


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    scene.host("S", 0)
    scene.host("D", 1)
    scene.tick(20)
    scene.see("S", "up")
    return scene


@pytest.mark.parametrize(
    ("event", "doubt"),
    [("silent", Doubt.HOST_SILENT), ("stopped", Doubt.AGENT_STOPPED), ("degraded", Doubt.LIBVIRT_UNREACHABLE)],
)
def test_h1_h5_h6_a_host_that_is_not_heard_makes_its_vms_unknown(scene: Scene, event: str, doubt: Doubt) -> None:
    [change] = scene.say("S", events=[event])
    assert (change.status, change.availability.reasons, change.facets) == (Status.UP, [doubt], {})


def test_h2_back_is_not_yet_known_confirmed_is(scene: Scene) -> None:
    scene.say("S", events=["silent"])
    assert not scene.say("S", events=["back"])
    [change] = scene.say("S", events=["confirmed"])
    assert brief(change) == "host up known S"


def test_h2b_each_reason_ends_by_its_own_end(scene: Scene) -> None:
    scene.say("S", events=["silent"])
    scene.say("S", events=["conflict"])
    assert scene.last.availability.reasons == [Doubt.HOST_CONFLICT, Doubt.HOST_SILENT]
    scene.say("S", events=["back", "confirmed"])
    assert scene.last.availability.reasons == [Doubt.HOST_CONFLICT]
    scene.say("S", events=["conflict_ended"])
    assert scene.last.availability.state is Believed.KNOWN


def test_h6_recovered_alone_is_not_known(scene: Scene) -> None:
    scene.say("S", events=["degraded"])
    assert not scene.say("S", events=["recovered"])
    scene.say("S", events=["confirmed"])
    assert scene.last.availability.state is Believed.KNOWN


def test_a_new_epoch_changes_nothing_for_known_vms(scene: Scene) -> None:
    assert not scene.say("S", events=["new_epoch"])
    assert not scene.say("S", events=["confirmed"])


def test_since_is_when_the_reasons_changed(scene: Scene) -> None:
    [silent] = scene.say("S", events=["silent"])
    changes = scene.see("S", "paused", pause="user")
    assert [change.availability.since for change in changes] == [silent.availability.since]


def test_o6_two_running_claims_are_a_conflict_once_both_hosts_are_settled(scene: Scene) -> None:
    scene.say("D", events=["new_epoch"])
    scene.say("D", events=["confirmed"])
    assert not scene.see("D", "up")
    assert not scene.tick(9)
    [change] = scene.tick(1)
    assert brief(change) == "conflict up conflict/conflict S"


def test_o6_unconfirmed_evidence_is_judged_at_the_confirmation(scene: Scene) -> None:
    scene.see("S", "down", exit_="normal/guest_shutdown")
    scene.say("D", events=["new_epoch"])
    assert not scene.see("D", "up")
    [change] = scene.say("D", events=["confirmed"])
    assert brief(change) == "adopted up known D"


def test_o6_late_evidence_takes_nothing_and_is_judged_once_its_partition_caught_up(scene: Scene) -> None:
    scene.see("S", "down", exit_="normal/guest_shutdown")
    scene.tick(100, without=[1])
    assert not scene.see("D", "up", age_seconds=90)
    [change] = scene.tick(1)
    assert brief(change) == "adopted up known D"


def test_o5_a_conflict_ends_when_the_other_claim_ends(scene: Scene) -> None:
    scene.see("D", "up")
    assert scene.last.availability.reason is Doubt.CONFLICT
    scene.see("D", "down", exit_="normal/admin_destroy")
    assert brief(scene.last) == "conflict_ended up known S"


def test_o5_a_conflict_ends_with_the_owners_claim_and_the_other_owns_it(scene: Scene) -> None:
    scene.see("D", "up")
    scene.see("S", "down", exit_="normal/admin_destroy")
    assert brief(scene.last) == "adopted up known D"


def test_a_partition_that_is_left_out_makes_its_vms_unread(scene: Scene) -> None:
    changes = scene.tick(320, without=[0], step=5)
    assert [brief(change) for change in changes] == ["host up unknown/unread S"]
    changes = scene.tick(5)
    assert [brief(change) for change in changes] == ["host up known S"]


def test_a_silent_host_does_not_count_for_vms_it_no_longer_lists(scene: Scene) -> None:
    scene.see("S", "down", exit_="normal/guest_shutdown")
    scene.gone("S", "absent")
    assert not scene.say("S", events=["silent"])


def test_h3_a_vm_gone_from_one_of_two_agents_stays(scene: Scene) -> None:
    scene.say("S", events=["conflict"])
    assert not scene.gone("S", "undefined")


def test_a_gap_asks_every_host_and_trusts_nobody_until_confirmed(scene: Scene) -> None:
    scene.core.gap(scene.core.applied + 1, scene.core.applied + 11)
    batch = scene.core.seal()
    scene.outputs += batch.outputs
    assert brief(scene.last) == "gap up unknown/rebuilding S"
    assert len(scene.requests) == 2
    assert all(request.force for request in scene.requests)
