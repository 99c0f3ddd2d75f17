"""When an agent speaks: heartbeats, stalls, lost reports."""

from __future__ import annotations

from collections.abc import Callable

from producers.agent.clock import Instant
from producers.agent.reporter import Policy, Reporter
from schemas.report import Changes, HostReport, SnapshotPart
from schemas.status import GoneReason
from tests.unit.producers.agent.building import IDENTITY, START, ids, listing, reading, up, vm_id

POLICY = Policy(max_in_flight=3)


def reporter(policy: Policy = POLICY) -> Reporter:
    return Reporter(IDENTITY, policy, ids(), START)


def send(agent: Reporter, now: Instant) -> HostReport:
    report = agent.next_report(now)
    assert report is not None
    return report


def confirm(agent: Reporter, report: HostReport) -> None:
    agent.delivered(report.agent_epoch, report.seq)


def begun(policy: Policy = POLICY) -> Reporter:
    agent = reporter(policy)
    assert agent.wants_listing(START)
    agent.listed(listing(up(1), up(2)), START)
    confirm(agent, send(agent, START))
    return agent


def test_heartbeats_come_after_silence_only() -> None:
    agent = begun()
    assert agent.next_report(START.later(4.9)) is None
    beat = send(agent, START.later(5))
    assert beat.body == Changes()
    assert (beat.vm_count, beat.digest) == (2, agent.state.digest)
    confirm(agent, beat)
    agent.observed(reading(up(3)))
    confirm(agent, send(agent, START.later(9)))
    assert agent.next_report(START.later(13.9)) is None
    assert agent.next_due_ns() == START.later(14).monotonic_ns


def test_no_heartbeat_piles_up_behind_an_unconfirmed_report() -> None:
    agent = begun()
    beat = send(agent, START.later(5))
    assert agent.next_report(START.later(50)) is None
    confirm(agent, beat)
    assert agent.next_report(START.later(50)) is not None


def test_reports_are_not_numbered_while_the_broker_is_away() -> None:
    agent = begun()
    agent.observed(reading(up(3)))
    first = send(agent, START)
    for name in "bcdef":
        agent.observed(reading(up(3, name=name)))
        assert agent.next_report(START.later(1.5)) is None
    assert agent.outgoing.waiting == 1
    confirm(agent, first)
    second = send(agent, START.later(2))
    assert second.seq == first.seq + 1
    assert agent.outgoing.counts.coalesced == 4


def test_reports_on_their_way_are_bounded() -> None:
    agent = begun()
    for number in range(3, 10):
        agent.observed(reading(up(number)))
        agent.next_report(START)
    assert agent.in_flight == 3


def fail_all(agent: Reporter, reports: list[HostReport], now: Instant) -> None:
    for report in reports:
        agent.failed(report.agent_epoch, report.seq, now)


def test_a_lost_report_begins_a_new_epoch_once_nothing_is_on_its_way() -> None:
    agent = begun()
    agent.observed(reading(gone=[(2, GoneReason.UNDEFINED)]))
    lost = send(agent, START)
    agent.observed(reading(up(3)))
    late = send(agent, START)
    now = START.later(60)
    agent.failed(lost.agent_epoch, lost.seq, now)
    assert agent.next_report(now) is None
    assert agent.state.epoch == lost.agent_epoch
    agent.delivered(late.agent_epoch, late.seq)
    assert agent.renew(now)
    assert agent.state.epoch != lost.agent_epoch
    assert agent.next_report(now) is None
    assert agent.wants_listing(now)
    agent.listed(listing(up(1), up(3), at=now), now)
    first, second, third = send(agent, now), send(agent, now), send(agent, now)
    assert isinstance(first.body, SnapshotPart)
    assert (first.seq, first.body.parts) == (1, 2)
    assert isinstance(second.body, Changes)
    assert [gone.vm_id for gone in second.body.gone] == [vm_id(2)]
    assert isinstance(third.body, SnapshotPart)
    assert third.body.inventory == [vm_id(1), vm_id(3)]


def test_a_broker_that_refuses_everything_is_not_flooded_with_epochs() -> None:
    agent = begun()
    agent.observed(reading(up(3)))
    fail_all(agent, [send(agent, START)], START.later(1))
    assert not agent.renew(START.later(1))
    assert agent.farewell(START.later(1), "stop") is None
    assert agent.renew(START.later(5))
    assert not agent.renew(START.later(50))


def test_fates_of_another_epoch_are_ignored() -> None:
    agent = begun()
    epoch = agent.state.epoch
    agent.failed(type(epoch)(b"x" * 16), 1, START)
    assert agent.failed_deliveries == 0


def lists_when(agent: Reporter, now: Instant, cause: Callable[[], object]) -> bool:
    before = agent.wants_listing(now)
    cause()
    return not before and agent.wants_listing(now)


def test_listings_are_wanted_by_time_and_by_lost_hints() -> None:
    agent = begun()
    assert lists_when(agent, START.later(1), agent.want_listing)
    agent.listed(listing(up(1), up(2), at=START.later(1)), START.later(1))
    assert not agent.wants_listing(START.later(60))
    assert agent.wants_listing(START.later(61))
