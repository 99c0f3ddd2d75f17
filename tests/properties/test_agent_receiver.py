"""For every history of a host and every way in which sending may stall, fail and interleave: what arrives adds up."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import count
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.agent import snapshots
from producers.agent.clock import Instant
from producers.agent.rendering import render
from producers.agent.reporter import Policy, Reporter
from producers.agent.source import GoneView, HostIdentity, Listing, Reading, VmView
from schemas.facets import Facet, HostFacet
from schemas.facets.guest import Guest
from schemas.facets.host import HostReachability
from schemas.facets.identity import Identity
from schemas.facets.run import Run
from schemas.ids import BootId, HostId, MachineId, RequestId, VmId
from schemas.report import HostReport
from schemas.resync import Asker, ResyncRequest
from schemas.status import GoneReason, Status
from tests.unit.producers.agent.receiver import Receiver

IDENTITY = HostIdentity(host_id=HostId(b"h" * 16), machine_id=MachineId(b"m" * 16), boot_id=BootId(b"b" * 16))
POLICY = Policy(relist_seconds=1e9, snapshot_interval_seconds=2.0, max_in_flight=4, new_epoch_seconds=0.0)
VMS = [VmId(bytes([number]) * 16) for number in range(5)]

Op = tuple[Any, ...]
vm = st.integers(0, len(VMS) - 1)
ops: st.SearchStrategy[Op] = st.one_of(
    st.tuples(st.just("boot"), vm),
    st.tuples(st.just("end"), vm),
    st.tuples(st.just("rename"), vm, st.sampled_from("ab")),
    st.tuples(st.just("note"), vm),
    st.tuples(st.just("guest"), vm, st.sampled_from(["x", "y" * 300])),
    st.tuples(st.just("leave"), vm, st.sampled_from(list(GoneReason))),
    st.tuples(st.just("vanish"), vm),
    st.tuples(st.just("relist")),
    st.tuples(st.just("host"), st.booleans()),
    st.tuples(st.just("ask"), st.booleans()),
    st.tuples(st.just("pass"), st.sampled_from([0.3, 3.0, 6.0])),
    st.tuples(st.just("send"), st.integers(1, 6)),
    st.tuples(st.just("deliver"), st.integers(1, 6)),
    st.tuples(st.just("lose")),
)


class Host:
    """A host's truth, its reporter, the wire between them and the receiver at its end."""

    def __init__(self) -> None:
        self.now = Instant(1_700_000_000_000_000_000, 1_000_000_000)
        self.truth: dict[VmId, dict[Facet, msgspec.Struct]] = {}
        self._ids = (number.to_bytes(16, "big") for number in count(1))
        self.reporter = Reporter(IDENTITY, POLICY, lambda: next(self._ids), self.now)
        self.wire: deque[HostReport] = deque()
        self.receiver = Receiver()
        self.asked: list[RequestId] = []
        self._processes = count(1)

    def apply(self, op: Op) -> None:
        name, *arguments = op
        getattr(self, name)(*arguments)

    def look(self, vm_id: VmId) -> None:
        self.reporter.observed(self._reading([vm_id], []))

    def _reading(self, ids: list[VmId], gone: list[GoneView]) -> Reading:
        views = [VmView(vm_id=vm_id, facets=dict(self.truth[vm_id])) for vm_id in ids]
        return Reading(vms=views, gone=gone, observed_at=self.now.wall_ns, observed_monotonic_ns=self.now.monotonic_ns)

    def _facets(self, number: int) -> dict[Facet, msgspec.Struct]:
        down: dict[Facet, msgspec.Struct] = {
            Facet.IDENTITY: Identity(name="a"),
            Facet.RUN: Run(status=Status.DOWN),
        }
        return self.truth.setdefault(VMS[number], down)

    def boot(self, number: int) -> None:
        facets = self._facets(number)
        facets[Facet.RUN] = Run(status=Status.UP, process_id=str(next(self._processes)))
        facets.pop(Facet.GUEST, None)
        self.look(VMS[number])

    def end(self, number: int) -> None:
        facets = self._facets(number)
        facets[Facet.RUN] = Run(status=Status.DOWN)
        facets.pop(Facet.GUEST, None)
        self.look(VMS[number])

    def rename(self, number: int, name: str) -> None:
        self._facets(number)[Facet.IDENTITY] = Identity(name=name)
        self.look(VMS[number])

    def note(self, number: int) -> None:
        facets = self._facets(number)
        run = facets[Facet.RUN]
        facets[Facet.RUN] = msgspec.structs.replace(run, since=self.now.wall_ns)
        self.look(VMS[number])

    def guest(self, number: int, fqdn: str) -> None:
        facets = self._facets(number)
        run = facets[Facet.RUN]
        if isinstance(run, Run) and run.status is Status.UP:
            facets[Facet.GUEST] = Guest(agent_connected=True, fqdn=fqdn)
        self.look(VMS[number])

    def leave(self, number: int, reason: GoneReason) -> None:
        if self.truth.pop(VMS[number], None) is not None:
            self.reporter.observed(self._reading([], [GoneView(vm_id=VMS[number], reason=reason)]))

    def vanish(self, number: int) -> None:
        """Gone without an event: only a listing finds out."""
        self.truth.pop(VMS[number], None)

    def relist(self) -> None:
        reading = self._reading(list(self.truth), [])
        listing = Listing(
            vms=reading.vms, observed_at=reading.observed_at, observed_monotonic_ns=reading.observed_monotonic_ns
        )
        self.reporter.listed(listing, self.now)

    def host(self, connected: bool) -> None:
        self.reporter.observed_host({HostFacet.REACHABILITY: HostReachability(source_connected=connected)}, self.now)

    def ask(self, force: bool) -> None:
        request = ResyncRequest(
            request_id=RequestId(next(self._ids)),
            host_id=IDENTITY.host_id,
            force=force,
            asker=Asker.HOSTS,
            reason="property",
        )
        assert self.reporter.asked(request)
        assert not self.reporter.asked(request)
        self.asked.append(request.request_id)

    def __getattr__(self, name: str) -> Any:
        if name == "pass":
            return self.move
        raise AttributeError(name)

    def move(self, seconds: float) -> None:
        self.now = self.now.later(seconds)

    def send(self, most: int) -> None:
        for _ in range(most):
            report = self.reporter.next_report(self.now)
            if report is None:
                return
            self.wire.append(report)

    def deliver(self, most: int) -> None:
        for _ in range(min(most, len(self.wire))):
            report = self.wire.popleft()
            self.receiver.take(report)
            self.reporter.delivered(report.agent_epoch, report.seq)

    def lose(self) -> None:
        """Everything on its way is lost for ever."""
        while self.wire:
            report = self.wire.pop()
            self.reporter.failed(report.agent_epoch, report.seq, self.now)

    def settle(self) -> None:
        for _ in range(200):
            if self.reporter.wants_listing(self.now):
                self.relist()
            self.send(4)
            self.deliver(4)
            self.move(0.5)
            self.reporter.renew(self.now)
            asked = self.reporter.gate.due_at_ns() is not None
            if self.reporter.settled and not asked and not self.reporter.wants_listing(self.now):
                return
        raise AssertionError("never settled")

    def differences(self) -> Iterator[str]:
        if self.receiver.vms.keys() != self.truth.keys():
            yield "not the same VMs"
        for vm_id in map(VmId, self.receiver.vms.keys() & self.truth.keys()):
            told = self.receiver.vms[vm_id]
            for facet, value in self.truth[vm_id].items():
                last = self.reporter.state.vms[vm_id][facet]
                if facet.value not in told or told[facet.value] != last.data or render(value, last) is not None:
                    yield f"{facet} of a VM is not what was observed"
            if Facet.GUEST not in self.truth[vm_id] and told.get("guest", b"\x80") != b"\x80":
                yield "a guest outlived its process"


@settings(max_examples=150, deadline=None)
@given(st.lists(ops, max_size=60))
def test_what_arrives_adds_up(history: list[Op]) -> None:
    host = Host()
    for op in history:
        host.apply(op)
    host.relist()
    host.settle()
    assert host.receiver.problems == []
    assert list(host.differences()) == []
    assert host.receiver.digest() == host.reporter.state.digest
    assert len(host.receiver.vms) == host.reporter.state.vm_count


@settings(max_examples=100, deadline=None)
@given(st.lists(ops.filter(lambda op: op[0] != "lose"), max_size=60))
def test_every_request_is_answered_once_and_nothing_is_lost(history: list[Op]) -> None:
    host = Host()
    for op in history:
        host.apply(op)
    host.relist()
    host.settle()
    assert sorted(host.receiver.answered) == sorted(host.asked)
    assert host.receiver.epochs == 1
    assert host.receiver.seq == host.reporter.state.seq


@settings(max_examples=100, deadline=None)
@given(st.lists(ops, max_size=40), st.integers(300, 700))
def test_parts_of_any_size_interleave_with_changes(history: list[Op], planned_bytes: int) -> None:
    """Parts so small that every snapshot has many of them, and VMs that outgrow them."""
    before = snapshots.PLANNED_BYTES, snapshots.LIMIT_BYTES
    snapshots.PLANNED_BYTES, snapshots.LIMIT_BYTES = planned_bytes, planned_bytes + 250
    try:
        host = Host()
        for number in range(len(VMS)):
            host.guest(number, "x")
        for op in history:
            host.apply(op)
            host.send(1)
        host.relist()
        host.settle()
    finally:
        snapshots.PLANNED_BYTES, snapshots.LIMIT_BYTES = before
    assert host.receiver.problems == []
    assert list(host.differences()) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(ops.filter(lambda op: op[0] not in ("send", "deliver", "lose", "ask")), max_size=80))
def test_what_waits_is_bounded_by_the_vms_and_the_last_value_wins(history: list[Op]) -> None:
    host = Host()
    host.relist()
    host.settle()
    for op in history:
        host.apply(op)
        assert host.reporter.outgoing.waiting <= len(VMS)
    sent_before = host.reporter.state.seq
    host.relist()
    host.settle()
    changes = host.reporter.outgoing.counts.change_reports
    assert host.reporter.state.seq - sent_before <= changes + host.receiver.heartbeats + host.receiver.snapshots
    assert list(host.differences()) == []
    assert host.receiver.problems == []


@settings(max_examples=50, deadline=None)
@given(st.lists(ops, max_size=30))
def test_a_settled_host_has_nothing_to_say(history: list[Op]) -> None:
    """Neither a repeated listing nor differences in what is only noted send anything but heartbeats."""
    host = Host()
    for op in history:
        host.apply(op)
    host.relist()
    host.settle()
    digest = host.reporter.state.digest
    host.truth = {
        vm_id: {**facets, Facet.RUN: msgspec.structs.replace(facets[Facet.RUN], since=host.now.wall_ns + 5)}
        for vm_id, facets in host.truth.items()
    }
    host.relist()
    assert host.reporter.next_report(host.now) is None
    host.move(POLICY.heartbeat_seconds)
    report = host.reporter.next_report(host.now)
    assert report is not None
    assert report.digest == digest
