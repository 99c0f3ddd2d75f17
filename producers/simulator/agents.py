"""The reporters of all hosts of a fleet, fed by the fleet and read by whoever sends. No threads, no I/O of its own.

Keeps track of which hosts have something to do now, and of when the others will.
"""

import heapq
from collections.abc import Callable
from dataclasses import fields

from producers.agent.clock import Instant
from producers.agent.outgoing import OutgoingCounts
from producers.agent.publish import Delivery
from producers.agent.reporter import Policy, Reporter
from producers.simulator.fleet import Fleet, SimulatedHost
from schemas.ids import HostId
from schemas.report import HostReport
from schemas.resync import ResyncRequest

LISTED_AT_ONCE = 2_000
"""VMs listed in one turn, so that a large fleet's listings do not hold up its heartbeats."""
RETRY_NS = 500_000_000
"""When a host is looked at again that could not do what was due: Kafka or its hypervisor is away."""

Send = Callable[[HostReport], None]


class FleetReporters:
    """One reporter per host whose agent runs. Belongs to one thread."""

    def __init__(self, fleet: Fleet, policy: Policy, new_id: Callable[[], bytes]) -> None:
        self._fleet = fleet
        self._policy = policy
        self._new_id = new_id
        self._reporters: dict[int, Reporter] = {}
        self._born: dict[int, tuple[int, int]] = {}
        self._index = {host.host_id: host.index for host in fleet.hosts}
        self._hot: set[int] = set()
        self._timers: list[tuple[int, int]] = []
        self._timer_of: dict[int, int] = {}
        self._retired = OutgoingCounts()
        self.lost_reports = 0
        fleet.stirred.update(self._index.values())

    def look(self, now: Instant, send: Send) -> None:
        """Read every host that stirred; agents that stopped say farewell, new ones begin an epoch."""
        for index in sorted(self._fleet.stirred):
            host = self._fleet.hosts[index]
            if not host.reports:
                self._retire(host, now, send)
                continue
            reporter = self._reporter(host, now)
            if host.facets_dirty:
                host.facets_dirty = False
                reporter.observed_host(self._fleet.host_facets(index), now)
                reporter.want_listing()
            if host.connected:
                for reading in self._fleet.readings(index):
                    reporter.observed(reading)
            self._hot.add(index)
        self._fleet.stirred.clear()

    def _reporter(self, host: SimulatedHost, now: Instant) -> Reporter:
        born = (host.boots, host.agent_starts)
        if host.index not in self._reporters or self._born[host.index] != born:
            if host.index in self._reporters:
                self._count(self._reporters[host.index])
            reporter = Reporter(host.identity, self._spread(host.index), self._new_id, now)
            reporter.observed_host(self._fleet.host_facets(host.index), now)
            self._reporters[host.index], self._born[host.index] = reporter, born
        return self._reporters[host.index]

    def _spread(self, index: int) -> Policy:
        """Slightly different periods per host, so that thousands of them do not beat together."""
        share = index * 0.618_034 % 1
        policy = self._policy
        values = {field.name: getattr(policy, field.name) for field in fields(policy)}
        values["heartbeat_seconds"] = policy.heartbeat_seconds * (0.9 + 0.1 * share)
        values["relist_seconds"] = policy.relist_seconds * (0.9 + 0.2 * share)
        return Policy(**values)

    def _retire(self, host: SimulatedHost, now: Instant, send: Send) -> None:
        reporter = self._reporters.pop(host.index, None)
        self._hot.discard(host.index)
        if reporter is None:
            return
        if host.farewell and (last := reporter.farewell(now, "stopped")) is not None:
            send(last)
        self._count(reporter)

    def _count(self, reporter: Reporter) -> None:
        for field in fields(OutgoingCounts):
            total = getattr(self._retired, field.name) + getattr(reporter.outgoing.counts, field.name)
            setattr(self._retired, field.name, total)

    def decided(self, delivery: Delivery, now: Instant) -> None:
        """Take the fate of a report."""
        index = self._index.get(delivery.host_id)
        reporter = self._reporters.get(index) if index is not None else None
        if index is None or reporter is None:
            return
        if delivery.error is None:
            reporter.delivered(delivery.epoch, delivery.seq)
        else:
            self.lost_reports += 1
            reporter.failed(delivery.epoch, delivery.seq, now)
        self._hot.add(index)

    def asked(self, request: ResyncRequest) -> None:
        """Take a resync request."""
        index = self._index.get(HostId(request.host_id))
        if index is not None and index in self._reporters:
            self._reporters[index].asked(request)
            self._hot.add(index)

    def serve(self, now: Instant, send: Send) -> None:
        """Let every host with something to do list and send; those that could not finish stay hot."""
        while self._timers and self._timers[0][0] <= now.monotonic_ns:
            due, index = heapq.heappop(self._timers)
            if self._timer_of.get(index) == due:
                del self._timer_of[index]
                self._hot.add(index)
        listed = 0
        for index in list(self._hot):
            reporter = self._reporters.get(index)
            if reporter is None:
                self._hot.discard(index)
                continue
            host = self._fleet.hosts[index]
            if host.connected and reporter.wants_listing(now):
                if listed >= LISTED_AT_ONCE:
                    continue
                listed += len(host.runs)
                for reading in self._fleet.readings(index):
                    reporter.observed(reading)
                reporter.listed(self._fleet.listing(index), now)
            self._hot.discard(index)
            reporter.renew(now)
            while (report := reporter.next_report(now)) is not None:
                send(report)
            self._set_timer(index, reporter, now)

    def _set_timer(self, index: int, reporter: Reporter, now: Instant) -> None:
        due = reporter.next_due_ns()
        if due <= now.monotonic_ns:
            due = now.monotonic_ns + RETRY_NS
        known = self._timer_of.get(index)
        if known is None or due < known:
            self._timer_of[index] = due
            heapq.heappush(self._timers, (due, index))

    def next_due_ns(self) -> int | None:
        """Monotonic time at which `serve` has something to do; 0 is at once."""
        if self._hot:
            return 0
        return self._timers[0][0] if self._timers else None

    @property
    def opened(self) -> bool:
        """True when every running agent has begun its epoch."""
        return not self._fleet.stirred and all(reporter.state.opened for reporter in self._reporters.values())

    @property
    def settled(self) -> bool:
        """True when everything that happened at hosts with a running agent was sent and confirmed."""
        quiet = not self._hot and not self._fleet.stirred
        return quiet and all(
            reporter.settled or not self._fleet.hosts[index].connected for index, reporter in self._reporters.items()
        )

    def farewells(self, now: Instant, send: Send) -> None:
        """Every running agent says farewell."""
        for reporter in self._reporters.values():
            if (last := reporter.farewell(now, "stopped")) is not None:
                send(last)

    def digests(self) -> dict[HostId, tuple[int, int]]:
        """Digest and number of VMs of every running agent."""
        return {
            reporter.state.identity.host_id: (reporter.state.digest, reporter.state.vm_count)
            for reporter in self._reporters.values()
        }

    def counts(self) -> dict[str, int]:
        """Totals over all agents there were, by name."""
        totals = {field.name: getattr(self._retired, field.name) for field in fields(OutgoingCounts)}
        for reporter in self._reporters.values():
            for name in totals:
                totals[name] += getattr(reporter.outgoing.counts, name)
        return totals | {"lost_reports": self.lost_reports}

    def waiting(self) -> int:
        """VMs about which something is unsaid."""
        return sum(reporter.outgoing.waiting for reporter in self._reporters.values())
