"""What waits to be said: coalescing, order of leaving and coming back, sizes, epochs."""

from __future__ import annotations

import pytest

from producers.agent.core import AgentState
from producers.agent.outgoing import WINDOW_NS, Outgoing
from producers.agent.snapshots import Asked
from producers.agent.source import VmView
from schemas.codec import encode
from schemas.facets import Facet, HostFacet
from schemas.facets.guest import Guest
from schemas.facets.host import HostReachability, StorageClaim
from schemas.facets.identity import Identity
from schemas.facets.run import Run
from schemas.ids import AgentEpoch
from schemas.report import ENVELOPE_TARGET_BYTES, Changes, Gone, HostReport, SnapshotPart
from schemas.status import ExitReason, ExitStatus, GoneReason, Status
from tests.unit.producers.agent.building import IDENTITY, START, ids, listing, reading, up, vm_id
from tests.unit.producers.agent.receiver import Receiver


def outgoing() -> Outgoing:
    new_id = ids()
    return Outgoing(AgentState(IDENTITY, AgentEpoch(new_id())), new_id)


def opened(*views: VmView) -> Outgoing:
    """With these VMs told in the first snapshot."""
    out = outgoing()
    out.take_listing(listing(*views))
    out.begin_snapshot(Asked(), START)
    assert len(drain(out)) == 1
    return out


def drain(out: Outgoing) -> list[HostReport]:
    found = []
    while (report := out.next_report(START)) is not None:
        found.append(report)
    return found


def changes(report: HostReport) -> Changes:
    assert isinstance(report.body, Changes)
    return report.body


def part(report: HostReport) -> SnapshotPart:
    assert isinstance(report.body, SnapshotPart)
    return report.body


def test_nothing_is_said_before_the_first_listing() -> None:
    out = outgoing()
    out.take_reading(reading(up(1)))
    assert out.next_report(START) is None
    assert out.heartbeat(START) is None
    assert out.farewell(START, "stop") is None
    assert out.idle


def test_an_empty_host_is_a_snapshot_with_an_empty_inventory() -> None:
    out = outgoing()
    out.take_listing(listing())
    out.begin_snapshot(Asked(), START)
    (report,) = drain(out)
    assert (part(report).part, part(report).parts, part(report).inventory) == (1, 1, [])


def test_the_latest_value_wins_and_a_value_that_returned_is_not_said() -> None:
    out = opened(up(1, name="a"), up(2, name="a"))
    out.take_reading(reading(up(1, name="b"), up(2, name="b")))
    out.take_reading(reading(up(1, name="c"), up(2, name="a")))
    (report,) = drain(out)
    (vm,) = changes(report).vms
    assert vm.vm_id == vm_id(1)
    assert b"\xa1c" in vm.facets["identity"]
    assert out.counts.coalesced == 2


def test_a_vm_that_left_and_came_back_is_told_so_in_two_reports() -> None:
    out = opened(up(1), up(2))
    out.take_reading(reading(gone=[(1, GoneReason.UNDEFINED)]))
    out.take_reading(reading(up(1)))
    first, second = drain(out)
    assert changes(first).gone == [Gone(vm_id=vm_id(1), reason=GoneReason.UNDEFINED)]
    assert changes(first).vms == []
    assert changes(second).vms[0].facets.keys() == {"identity", "run"}


def test_last_words_come_before_the_leaving() -> None:
    """A transient VM ends: how it ended is told before it is gone, though both were read at once."""
    out = opened(up(1))
    ended = Run(status=Status.DOWN, exit_status=ExitStatus.NORMAL, exit_reason=ExitReason.GUEST_SHUTDOWN)
    out.take_reading(reading(VmView(vm_id=vm_id(1), facets={Facet.RUN: ended}), gone=[(1, GoneReason.TRANSIENT_ENDED)]))
    first, second = drain(out)
    assert b"guest_shutdown" in changes(first).vms[0].facets["run"]
    assert changes(second).gone == [Gone(vm_id=vm_id(1), reason=GoneReason.TRANSIENT_ENDED)]


def test_absence_does_not_overwrite_a_reason() -> None:
    out = opened(up(1), up(2))
    out.take_reading(reading(gone=[(1, GoneReason.MIGRATED)]))
    out.take_listing(listing())
    (report,) = drain(out)
    assert {(gone.vm_id, gone.reason) for gone in changes(report).gone} == {
        (vm_id(1), GoneReason.MIGRATED),
        (vm_id(2), GoneReason.ABSENT),
    }


def test_a_vm_that_came_and_went_unsaid_is_never_mentioned() -> None:
    out = opened()
    out.take_reading(reading(up(1)))
    out.take_reading(reading(gone=[(1, GoneReason.UNDEFINED)]))
    assert drain(out) == []


def test_an_unsaid_guest_does_not_outlive_the_process_that_was_told() -> None:
    out = opened(up(1))
    out.take_reading(reading(VmView(vm_id=vm_id(1), facets={Facet.GUEST: Guest(fqdn="old")})))
    restarted = VmView(vm_id=vm_id(1), facets={Facet.RUN: Run(status=Status.UP, process_id="2")})
    out.take_reading(reading(restarted))
    (report,) = drain(out)
    assert set(changes(report).vms[0].facets) == {"run"}


def test_a_vm_nothing_could_be_read_of_is_not_counted() -> None:
    out = opened(VmView(vm_id=vm_id(1), facets={}))
    assert out.state.vm_count == 0


def test_facets_left_out_of_a_listing_are_unchanged() -> None:
    out = opened(up(1))
    out.take_listing(listing(VmView(vm_id=vm_id(1), facets={})))
    assert drain(out) == []
    assert out.state.vm_count == 1


def test_observations_far_apart_go_into_separate_reports() -> None:
    out = opened()
    later = START.later(1.5 * WINDOW_NS / 1e9)
    out.take_reading(reading(up(1), at=START))
    out.take_reading(reading(up(2), at=START.later(0.5)))
    out.take_reading(reading(up(3), at=later))
    first, second = drain(out)
    assert [vm.vm_id for vm in changes(first).vms] == [vm_id(1), vm_id(2)]
    assert first.observed_at == START.wall_ns
    assert second.observed_at == later.wall_ns


def test_host_facets_and_storage_claims() -> None:
    out = opened()
    out.take_host({HostFacet.REACHABILITY: HostReachability(source_connected=False)}, START)
    out.take_storage({"one": StorageClaim(reachable=True), "two": StorageClaim(reachable=False)}, START)
    (report,) = drain(out)
    assert changes(report).host.keys() == {"host_reachability"}
    assert changes(report).storage.keys() == {"one", "two"}
    out.take_host({HostFacet.REACHABILITY: HostReachability(source_connected=False, since=5)}, START)
    out.take_storage({"two": StorageClaim(reachable=False)}, START)
    (report,) = drain(out)
    assert changes(report).storage_gone == ["one"]
    assert (changes(report).host, changes(report).storage) == ({}, {})
    assert drain(out) == []


def big(number: int, kilobytes: int = 40) -> VmView:
    tags = {f"t{index}": "x" * 1000 for index in range(kilobytes)}
    return VmView(vm_id=vm_id(number), facets={Facet.IDENTITY: Identity(tags=tags), Facet.RUN: Run(status=Status.UP)})


def test_envelopes_stay_below_their_limit() -> None:
    views = [big(number) for number in range(60)]
    out = outgoing()
    out.take_listing(listing(*views))
    out.begin_snapshot(Asked(), START)
    parts = drain(out)
    assert len(parts) >= 5
    out.take_reading(reading(*[big(number, 41) for number in range(60)]))
    reports = drain(out)
    assert len(reports) >= 5
    assert max(len(encode(report)) for report in parts + reports) < ENVELOPE_TARGET_BYTES
    assert max(len(encode(report)) for report in reports) > ENVELOPE_TARGET_BYTES * 0.8


def test_a_part_that_outgrew_its_room_starts_the_snapshot_again() -> None:
    out = outgoing()
    out.take_listing(listing(*[big(number, 9) for number in range(90)]))
    out.begin_snapshot(Asked(), START)
    receiver = Receiver()
    first = out.next_report(START)
    assert first is not None
    receiver.take(first)
    out.take_reading(reading(*[big(number, 20) for number in range(90)]))
    for report in drain(out):
        receiver.take(report)
    assert receiver.problems == []
    assert receiver.snapshots == 1
    assert (receiver.digest(), len(receiver.vms)) == (out.state.digest, 90)


def test_live_changes_go_between_the_parts() -> None:
    out = outgoing()
    out.take_listing(listing(*[big(number) for number in range(30)]))
    out.begin_snapshot(Asked(), START)
    kinds = []
    for number in range(6):
        out.take_reading(reading(up(100 + number)))
        report = out.next_report(START)
        assert report is not None
        kinds.append(type(report.body).__name__)
    assert kinds == ["SnapshotPart", "Changes", "SnapshotPart", "Changes", "SnapshotPart", "Changes"]


def test_leaving_is_told_before_the_inventory_would_tell_it() -> None:
    out = opened(up(1), up(2))
    out.take_listing(listing(up(1), up(2)))
    out.begin_snapshot(Asked(force=True), START)
    out.take_reading(reading(gone=[(2, GoneReason.UNDEFINED)]))
    first, second = drain(out)
    assert changes(first).gone == [Gone(vm_id=vm_id(2), reason=GoneReason.UNDEFINED)]
    assert part(second).inventory == [vm_id(1)]
    assert part(second).force


@pytest.mark.parametrize("still_known", [False, True])
def test_a_new_epoch_tells_lost_reasons_again(still_known: bool) -> None:
    out = opened(up(1), up(2))
    if not still_known:
        out.take_reading(reading(gone=[(2, GoneReason.UNDEFINED)]))
        drain(out)
    out.begin_epoch(AgentEpoch(b"n" * 16), [Gone(vm_id=vm_id(2), reason=GoneReason.UNDEFINED)], START)
    assert out.next_report(START) is None
    out.take_listing(listing(up(1), *([up(2)] if still_known else [])))
    out.begin_snapshot(Asked(), START)
    reports = drain(out)
    assert [report.seq for report in reports] == list(range(1, len(reports) + 1))
    if still_known:
        assert [type(report.body) for report in reports] == [SnapshotPart]
    else:
        assert [type(report.body) for report in reports] == [SnapshotPart, Changes, SnapshotPart]
        assert changes(reports[1]).gone == [Gone(vm_id=vm_id(2), reason=GoneReason.UNDEFINED)]
