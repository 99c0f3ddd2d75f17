"""The rules (§6) for the owner's evidence, and what a loss becomes."""

import pytest

from schemas.change import Cause
from schemas.facets.guest import Guest
from schemas.status import Believed, ExitReason, ExitStatus, GoneReason, Status
from tests.unit.streams.vms.scene import Scene, brief, run


@pytest.fixture
def scene() -> Scene:
    """S and D are settled, S runs the VM."""
    scene = Scene()
    scene.host("S", 0)
    scene.host("D", 1)
    scene.tick(20)
    scene.see("S", "up")
    return scene


def test_s1_down_with_exit_data_is_taken(scene: Scene) -> None:
    [change] = scene.see("S", "down", exit_="error/qemu_died")
    assert brief(change) == "reported down known S error/qemu_died"


def test_s1_repeated_down_keeps_the_first_exit_data(scene: Scene) -> None:
    scene.see("S", "down", exit_="normal/guest_shutdown")
    changes = scene.see("S", "down", exit_="error/unknown")
    assert [change.exit for change in changes] == [scene.changes[-2].exit]


def test_s1_down_without_exit_data_is_judged_after_30_ticks(scene: Scene) -> None:
    scene.see("S", "down")
    assert brief(scene.last) == "reported up unknown/judging S"
    scene.tick(29)
    assert scene.last.status is Status.UP
    scene.tick(1)
    assert brief(scene.last) == "judged down known S unknown/unknown"


def test_s1_exit_data_end_the_judging(scene: Scene) -> None:
    scene.see("S", "down")
    scene.see("S", "down", exit_="normal/guest_shutdown")
    assert brief(scene.last) == "reported down known S normal/guest_shutdown"
    assert not scene.tick(60)


def test_s1_crashed_counts_as_error_and_suspended_as_saved(scene: Scene) -> None:
    scene.see("S", "crashed")
    assert brief(scene.last) == "reported crashed known S error/unknown"
    scene.see("S", "up", process="2")
    scene.see("S", "suspended")
    assert brief(scene.last) == "reported suspended known S normal/saved"


def test_s2_gone_of_a_vm_that_is_not_alive_judges_nothing(scene: Scene) -> None:
    scene.see("S", "down", exit_="normal/guest_shutdown")
    [change] = scene.gone("S", "absent")
    assert (change.status, change.availability.state, list(change.facets)) == (Status.DOWN, Believed.KNOWN, ["run"])
    assert not scene.tick(100)


@pytest.mark.parametrize(
    ("status", "reason"),
    [("powering_down", ExitReason.GUEST_SHUTDOWN), ("rebooting", ExitReason.DESTROYED_ON_REBOOT)],
)
def test_s2_gone_while_it_was_ending_is_normal(scene: Scene, status: str, reason: ExitReason) -> None:
    scene.see("S", status)
    [change] = scene.gone("S", "transient_ended")
    assert change.exit is not None
    assert (change.status, change.exit.status, change.exit.reason) == (Status.DOWN, ExitStatus.NORMAL, reason)


def test_s2_gone_of_an_alive_vm_is_lost_when_the_clock_passed_it_by_10_seconds(scene: Scene) -> None:
    scene.gone("S", "absent")
    assert brief(scene.last) == "gone up unknown/judging S"
    scene.tick(9)
    assert scene.last.status is Status.UP
    scene.tick(1)
    assert brief(scene.last) == "judged down known S error/lost"
    assert scene.last.evidence.tick is not None


def test_a_loss_is_not_judged_while_a_partition_is_unread(scene: Scene) -> None:
    scene.gone("S", "absent")
    assert not scene.tick(250, without=[1])


def test_a_lost_vm_that_runs_elsewhere_moves(scene: Scene) -> None:
    scene.see("D", "starting")
    scene.gone("S", "absent")
    scene.tick(12)
    assert brief(scene.last) == "adopted starting known D"


def test_a_lost_vm_that_a_silent_host_may_have_moves_as_unknown(scene: Scene) -> None:
    scene.see("D", "starting")
    scene.say("D", events=["silent"])
    scene.gone("S", "absent")
    scene.tick(12)
    assert brief(scene.last) == "adopted starting unknown/host_silent D"


def test_a7_a_vm_that_comes_back_continues(scene: Scene) -> None:
    run_id = scene.last.run_id
    scene.gone("S", "absent")
    scene.tick(3)
    scene.see("S", "up")
    assert brief(scene.last) == "reported up known S"
    assert scene.last.run_id == run_id
    assert not scene.tick(60)


def test_s3_alive_in_a_new_boot_is_a_new_run(scene: Scene) -> None:
    before = scene.last
    scene.boot("S")
    scene.see("S", "up", process="9", events=["back", "new_boot", "confirmed"])
    assert brief(scene.last) == "restarted up known S"
    assert scene.last.run_id != before.run_id
    assert not scene.tick(60)


def test_s3_alive_with_the_same_bytes_in_a_new_boot_is_a_new_run_all_the_same(scene: Scene) -> None:
    vm_id = next(iter(scene.core.state.vms))
    scene.boot("S")
    scene.say("S", inventory=[vm_id], events=["new_boot", "confirmed"])
    assert brief(scene.last) == "restarted up known S"
    assert not scene.tick(60)


def test_s3_gone_in_a_new_boot_is_lost_with_the_host(scene: Scene) -> None:
    before = scene.last
    scene.boot("S")
    scene.gone("S", "absent", events=["new_boot", "confirmed"])
    assert brief(scene.last) == "gone up unknown/judging S"
    scene.tick(12)
    assert brief(scene.last) == "judged down known S error/host_lost"
    assert scene.last.run_id == before.run_id


def test_last_words_and_leaving_in_one_observation(scene: Scene) -> None:
    [change] = scene.tell("S", run("down", exit_="normal/guest_shutdown"), gone=GoneReason.TRANSIENT_ENDED)
    assert brief(change) == "reported down known S normal/guest_shutdown"
    assert not scene.tick(60)


def test_s3_waits_for_the_first_complete_snapshot(scene: Scene) -> None:
    scene.boot("S")
    scene.see("S", "down", events=["new_boot"])
    assert brief(scene.last) == "reported up unknown/judging S"
    assert not scene.tick(100)
    scene.say("S", events=["confirmed"])
    scene.tick(12)
    assert brief(scene.last) == "judged down known S error/host_lost"


def test_s3_a_boot_nobody_announced_counts_as_well(scene: Scene) -> None:
    scene.boot("S")
    scene.say("S", events=["back"])
    assert brief(scene.last) == "reported up unknown/judging S"


def test_s3_a_boot_during_a_host_conflict_proves_nothing(scene: Scene) -> None:
    scene.say("S", events=["conflict"])
    scene.boot("S")
    scene.see("D", "down")
    scene.say("S")
    assert brief(scene.last) == "host up unknown/host_conflict S"


def test_s5_rebooting_ends_after_60_ticks(scene: Scene) -> None:
    scene.see("S", "rebooting")
    scene.tick(59)
    assert scene.last.status is Status.REBOOTING
    [change] = scene.tick(1)
    assert brief(change) == "timer up known S"
    assert not scene.tick(100)


def test_s5_rebooting_ends_by_evidence(scene: Scene) -> None:
    scene.see("S", "rebooting")
    scene.see("S", "up")
    assert scene.last.status is Status.UP
    assert not scene.tick(100)


def test_s10_powering_up_becomes_up_after_60_ticks_and_stays_so(scene: Scene) -> None:
    scene.see("S", "powering_up", process="2")
    scene.tick(60)
    assert brief(scene.last) == "timer up known S"
    scene.tell("S", Guest(fqdn="vm.example"))
    assert scene.last.status is Status.UP


def test_s10_powering_up_becomes_up_when_the_guest_answers(scene: Scene) -> None:
    scene.see("S", "powering_up", process="2")
    scene.tell("S", Guest(agent_connected=False))
    assert scene.last.status is Status.POWERING_UP
    [change] = scene.tell("S", Guest(agent_connected=True))
    assert (change.status, list(change.facets)) == (Status.UP, ["guest"])
    assert not scene.tick(100)


def test_s7_a_new_process_is_a_restart(scene: Scene) -> None:
    before = scene.last
    [change] = scene.see("S", "up", process="2")
    assert change.cause is Cause.RESTARTED
    assert change.run_id != before.run_id
    assert change.ownership_epoch == before.ownership_epoch


def test_a_start_after_an_end_is_a_new_run_without_exit(scene: Scene) -> None:
    before = scene.last
    scene.see("S", "down", exit_="normal/guest_shutdown")
    assert scene.last.run_id == before.run_id
    scene.see("S", "up", process="2")
    assert scene.last.run_id != before.run_id
    assert scene.last.exit is None
    assert scene.last.ownership_epoch == before.ownership_epoch


def test_s9_a_guest_facet_never_changes_a_status(scene: Scene) -> None:
    scene.see("S", "paused", pause="user")
    scene.tell("S", Guest(agent_connected=True))
    assert scene.last.status is Status.PAUSED


def test_d5_the_end_of_a_run_clears_what_belongs_to_it(scene: Scene) -> None:
    scene.tell("S", Guest(agent_connected=True, fqdn="vm.example"))
    [change] = scene.see("S", "down", exit_="normal/guest_shutdown")
    cleared = {name for name, facet in change.facets.items() if facet.cleared}
    assert cleared == {"guest", "console"}
    assert change.facets["guest"].before == {"agent_connected": True, "fqdn": "vm.example"}


def test_o9_removed_when_the_last_claim_ended_as_undefined(scene: Scene) -> None:
    scene.see("S", "down", exit_="normal/guest_shutdown")
    scene.gone("S", "undefined")
    assert brief(scene.last) == "removed removed known - normal/guest_shutdown"
    assert all(facet.cleared for facet in scene.last.facets.values())


def test_o9_a_definition_elsewhere_keeps_the_row(scene: Scene) -> None:
    scene.see("D", "down")
    scene.see("S", "down", exit_="normal/guest_shutdown")
    scene.gone("S", "undefined")
    scene.gone("D", "undefined")
    assert [change.status for change in scene.changes[-3:]] == [Status.DOWN, Status.DOWN, Status.REMOVED]
    assert [change.host_id is None for change in scene.changes[-2:]] == [False, True]


def test_o9_ended_otherwise_it_is_removed_after_a_day(scene: Scene) -> None:
    scene.see("S", "down", exit_="normal/guest_shutdown")
    scene.gone("S", "transient_ended")
    assert not scene.tick(86_390, step=10)
    [change] = scene.tick(20, step=10)
    assert change.status is Status.REMOVED


def test_o9_an_alive_vm_that_was_undefined_is_judged_down_then_removed(scene: Scene) -> None:
    scene.gone("S", "undefined")
    scene.tick(20)
    assert [change.status for change in scene.changes[-2:]] == [Status.DOWN, Status.REMOVED]


def test_a_removed_row_is_forgotten_after_a_day(scene: Scene) -> None:
    scene.see("S", "down", exit_="normal/guest_shutdown")
    scene.gone("S", "undefined")
    scene.tick(86_420, step=10)
    assert not scene.core.state.vms
    key = scene.last.vm_id.encode()
    assert [row for batch in scene.batches for row in batch.rows if row.key == key][-1].value is None


def test_a7_a_removed_row_gets_a_new_incarnation(scene: Scene) -> None:
    scene.see("S", "down", exit_="normal/guest_shutdown")
    scene.gone("S", "undefined")
    before = scene.last
    scene.see("S", "up", process="2")
    assert (scene.last.version, scene.last.previous_digest) == (1, 0)
    assert scene.last.incarnation > before.incarnation
    assert scene.last.ownership_epoch > before.ownership_epoch


def test_a7_another_host_needs_a_new_process_for_a_removed_row(scene: Scene) -> None:
    scene.see("S", "down", exit_="normal/guest_shutdown")
    scene.gone("S", "undefined")
    removed = scene.last
    old = run("up", host="S")
    scene.tell("D", old)
    assert scene.last == removed
    scene.see("D", "up", process="2")
    assert brief(scene.last) == "created up known D"


def test_what_changes_nothing_writes_nothing(scene: Scene) -> None:
    scene.see("S", "up")
    batch = scene.batches[-1]
    assert [row.key for row in batch.rows] == [b"#partition"]
    assert batch.outputs == []
