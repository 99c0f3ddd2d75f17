"""One host's agent as a state machine: it is told readings, deliveries, requests and the time, and says what to send.

The shells (a service for one real host, a runner for many simulated ones) only read, send and wait.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from producers.agent.clock import Instant
from producers.agent.core import AgentState
from producers.agent.outgoing import Outgoing
from producers.agent.snapshots import Asked, SnapshotGate
from producers.agent.source import HostIdentity, Listing, Reading
from schemas.facets import HostFacet
from schemas.ids import AgentEpoch
from schemas.report import Changes, Gone, HostReport
from schemas.resync import ResyncRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """When an agent speaks. Frozen; units in the names."""

    heartbeat_seconds: float = 5.0
    """After this long without another report."""
    relist_seconds: float = 60.0
    """Between complete listings, which find what events missed."""
    snapshot_interval_seconds: float = 60.0
    """Least time between two snapshots asked for."""
    max_in_flight: int = 64
    """Reports on their way at once; a snapshot of 6,000 VMs has about 20 parts."""
    stalled_seconds: float = 1.0
    """A report unconfirmed for so long means Kafka is away: nothing more is numbered, state coalesces."""
    new_epoch_seconds: float = 5.0
    """Least time between two epochs, so that a broker that refuses everything is not flooded with snapshots."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _InFlight:
    seq: int
    sent: Instant
    gone: list[Gone]


class Reporter:
    """Decides what one host says next. Not thread-safe; its owner locks. `new_id` gives 16 random bytes."""

    def __init__(self, identity: HostIdentity, policy: Policy, new_id: Callable[[], bytes], started: Instant) -> None:
        self.policy = policy
        self.outgoing = Outgoing(AgentState(identity, AgentEpoch(new_id())), new_id)
        self.gate = SnapshotGate(policy.snapshot_interval_seconds)
        self.failed_deliveries = 0
        self._new_id = new_id
        self._in_flight: deque[_InFlight] = deque()
        self._failed: list[_InFlight] = []
        self._last_sent = started
        self._last_listed: Instant | None = None
        self._relist_wanted = True
        self._epoch_began = started

    @property
    def state(self) -> AgentState:
        """What was published in this epoch."""
        return self.outgoing.state

    @property
    def settled(self) -> bool:
        """True when everything observed was sent and confirmed."""
        return self.state.opened and self.outgoing.idle and not self._in_flight and not self._failed

    @property
    def in_flight(self) -> int:
        """Reports sent and not yet confirmed."""
        return len(self._in_flight)

    def observed(self, reading: Reading) -> None:
        """Take a reading of some VMs."""
        self.outgoing.take_reading(reading)

    def observed_host(self, facets: Mapping[HostFacet, msgspec.Struct], now: Instant) -> None:
        """Take the host's own facets."""
        self.outgoing.take_host(facets, now)

    def wants_listing(self, now: Instant) -> bool:
        """True when a complete listing is due: a new epoch, hints lost, a snapshot asked, or the time for one."""
        if self._relist_wanted or self._last_listed is None:
            return True
        overdue = now.seconds_since(self._last_listed) >= self.policy.relist_seconds
        return overdue or (self.gate.due(now) and not self.outgoing.in_snapshot)

    def want_listing(self) -> None:
        """Hints were lost: the next listing is due at once."""
        self._relist_wanted = True

    def listed(self, listing: Listing, now: Instant) -> None:
        """Take a complete listing, read after it was asked for; begins the snapshot that waits for one."""
        self.outgoing.take_listing(listing)
        self._last_listed = now
        self._relist_wanted = False
        if self._failed or self.outgoing.in_snapshot:
            return
        if not self.state.opened or self.gate.due(now):
            asked = self.gate.take(now) if self.gate.due(now) or not self.state.opened else Asked()
            self.outgoing.begin_snapshot(asked, Instant(listing.observed_at, listing.observed_monotonic_ns))

    def asked(self, request: ResyncRequest) -> bool:
        """Take a resync request; False when it was known."""
        return self.gate.ask(request)

    def next_report(self, now: Instant) -> HostReport | None:
        """The report to send now, numbered; None when there is none or nothing can be sent. Send each before asking
        for the next."""
        if self._failed or not self._may_send(now):
            return None
        report = self.outgoing.next_report(now)
        if report is None and not self._in_flight and self._heartbeat_due(now):
            report = self.outgoing.heartbeat(now)
        return None if report is None else self._sent(report, now)

    def farewell(self, now: Instant, reason: str) -> HostReport | None:
        """The last report; None when none was ever sent or the epoch is broken."""
        if self._failed:
            return None
        report = self.outgoing.farewell(now, reason)
        return None if report is None else self._sent(report, now)

    def _sent(self, report: HostReport, now: Instant) -> HostReport:
        gone = report.body.gone if isinstance(report.body, Changes) else []
        self._in_flight.append(_InFlight(seq=report.seq, sent=now, gone=gone))
        self._last_sent = now
        return report

    def _may_send(self, now: Instant) -> bool:
        if not self._in_flight:
            return True
        stalled = now.seconds_since(self._in_flight[0].sent) > self.policy.stalled_seconds
        return not stalled and len(self._in_flight) < self.policy.max_in_flight

    def _heartbeat_due(self, now: Instant) -> bool:
        return now.seconds_since(self._last_sent) >= self.policy.heartbeat_seconds

    def delivered(self, epoch: AgentEpoch, seq: int) -> None:
        """A report is in the log."""
        if epoch == self.state.epoch:
            self._take_off(seq)

    def failed(self, epoch: AgentEpoch, seq: int, now: Instant) -> None:
        """A report will never be in the log, or nobody knows: this epoch has a hole and ends.

        The next one begins when nothing of the old one is on its way any more, so that none of its reports comes late.
        """
        if epoch != self.state.epoch:
            return
        self.failed_deliveries += 1
        if (lost := self._take_off(seq)) is not None:
            self._failed.append(lost)
        self.renew(now)

    def renew(self, now: Instant) -> bool:
        """Begin the epoch that replaces a broken one, once that is possible; True when it began."""
        too_early = now.seconds_since(self._epoch_began) < self.policy.new_epoch_seconds
        if not self._failed or self._in_flight or too_early:
            return False
        untold = [gone for report in self._failed for gone in report.gone]
        self._failed = []
        self._epoch_began = now
        self._relist_wanted = True
        self.outgoing.begin_epoch(AgentEpoch(self._new_id()), untold, now)
        return True

    def _take_off(self, seq: int) -> _InFlight | None:
        for report in self._in_flight:
            if report.seq == seq:
                self._in_flight.remove(report)
                return report
        return None

    def next_due_ns(self) -> int:
        """Monotonic time at which something is to be done without any event: heartbeat, listing, asked snapshot."""
        due = [self._last_sent.later(self.policy.heartbeat_seconds).monotonic_ns]
        if self._last_listed is not None:
            due.append(self._last_listed.later(self.policy.relist_seconds).monotonic_ns)
        if (gate := self.gate.due_at_ns()) is not None:
            due.append(gate)
        if self._failed:
            due.append(self._epoch_began.later(self.policy.new_epoch_seconds).monotonic_ns)
        return min(due)
