"""What every source promises an agent, whatever hypervisor is behind it: one suite, run over each of them.

A subclass of `SourceContract` provides the fixture `hypervisor`; the classes here and in `test_source_libvirt.py` do.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

import pytest

from producers.agent.clock import SystemClock
from producers.agent.source import Hints, Source, SourceUnavailable, VmView
from producers.simulator import scripts
from producers.simulator.fleet import Fleet, Script
from producers.simulator.source import SimulatedSource
from schemas.facets import HOST_FACETS, VM_FACETS, Facet, HostFacet
from schemas.facets.host import HostReachability
from schemas.facets.normal import fingerprint
from schemas.facets.run import Run
from schemas.ids import VmId
from schemas.status import ALIVE, ENDED, GoneReason, Status

NOTICED_SECONDS = 10.0
"""A change has to be hinted within this time."""


class Hypervisor(Protocol):
    """What a test does to a host, and the source that watches it (not yet set up)."""

    @property
    def source(self) -> Source: ...

    def start_vm(self) -> VmId:
        """A new, persistent VM that runs."""
        ...

    def pause_vm(self, vm_id: VmId) -> None: ...

    def kill_vm(self, vm_id: VmId) -> None:
        """Its process dies; the definition stays."""
        ...

    def undefine_vm(self, vm_id: VmId) -> None:
        """The definition of an ended VM goes."""
        ...

    def disconnect(self) -> None:
        """The hypervisor can not be asked any more."""
        ...

    def reconnect(self) -> None: ...


def run_of(view: VmView) -> Run:
    run = view.facets[Facet.RUN]
    assert isinstance(run, Run)
    return run


class Following:
    """Waits and reads like an agent, and remembers the last run facet and the reason why a VM left."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.runs: dict[VmId, Run] = {}
        self.gone: dict[VmId, GoneReason] = {}

    def turn(self) -> Hints:
        hints = self.source.wait(0.2)
        if hints.relist:
            self.runs.update({view.vm_id: run_of(view) for view in self.source.list().vms if view.facets})
        if hints.dirty:
            reading = self.source.read(hints.dirty)
            assert {view.vm_id for view in reading.vms} | {view.vm_id for view in reading.gone} <= hints.dirty
            self.runs.update({view.vm_id: run_of(view) for view in reading.vms})
            self.gone.update({view.vm_id: view.reason for view in reading.gone})
        return hints

    def until_status(self, vm_id: VmId, statuses: frozenset[Status]) -> Run:
        deadline = time.monotonic() + NOTICED_SECONDS
        while vm_id not in self.runs or self.runs[vm_id].status not in statuses:
            assert time.monotonic() < deadline, f"never {sorted(statuses)}, but {self.runs.get(vm_id)}"
            self.turn()
        return self.runs[vm_id]

    def until_gone(self, vm_id: VmId) -> GoneReason:
        deadline = time.monotonic() + NOTICED_SECONDS
        while vm_id not in self.gone:
            assert time.monotonic() < deadline, "never gone"
            self.turn()
        return self.gone[vm_id]


class SourceContract:
    """The suite. Every test gets a hypervisor of its own."""

    def test_says_who_it_is_and_stays_it(self, hypervisor: Hypervisor) -> None:
        hypervisor.source.setup()
        identity = hypervisor.source.identity()
        assert {len(identity.host_id), len(identity.machine_id), len(identity.boot_id)} == {16}
        assert hypervisor.source.identity() == identity

    def test_setup_and_close_may_be_repeated(self, hypervisor: Hypervisor) -> None:
        hypervisor.source.setup()
        hypervisor.source.setup()
        hypervisor.source.close()
        hypervisor.source.close()

    def test_lists_whole_vms_of_the_declared_facets(self, hypervisor: Hypervisor) -> None:
        hypervisor.source.setup()
        vm_id = hypervisor.start_vm()
        before = time.time_ns()
        listing = hypervisor.source.list()
        assert before <= listing.observed_at <= time.time_ns()
        assert listing.observed_monotonic_ns <= time.monotonic_ns()
        views = {view.vm_id: view for view in listing.vms}
        assert len(views) == len(listing.vms)
        assert {Facet.IDENTITY, Facet.RUN, Facet.DEVICES} <= views[vm_id].facets.keys()
        assert run_of(views[vm_id]).status in ALIVE
        assert run_of(views[vm_id]).process_id is not None
        for view in listing.vms:
            for facet, value in view.facets.items():
                assert type(value) is VM_FACETS[facet]

    def test_listing_and_reading_twice_say_the_same(self, hypervisor: Hypervisor) -> None:
        hypervisor.source.setup()
        vm_id = hypervisor.start_vm()
        Following(hypervisor.source).until_status(vm_id, frozenset({Status.UP, Status.PAUSED}))

        def told(views: list[VmView]) -> dict[VmId, dict[Facet, bytes]]:
            return {view.vm_id: {name: fingerprint(value) for name, value in view.facets.items()} for view in views}

        first = told(hypervisor.source.list().vms)
        assert told(hypervisor.source.list().vms) == first
        assert told(hypervisor.source.read(frozenset(first)).vms) == first

    def test_wait_returns_when_nothing_happens(self, hypervisor: Hypervisor) -> None:
        hypervisor.source.setup()
        deadline = time.monotonic() + NOTICED_SECONDS
        while hypervisor.source.wait(0.1) != Hints():
            assert time.monotonic() < deadline, "hints without an end on an idle host"
        began = time.monotonic()
        assert hypervisor.source.wait(0.3) == Hints()
        assert 0.2 <= time.monotonic() - began < 2.0

    def test_hints_lead_to_every_change(self, hypervisor: Hypervisor) -> None:
        hypervisor.source.setup()
        following = Following(hypervisor.source)
        vm_id = hypervisor.start_vm()
        started = following.until_status(vm_id, frozenset({Status.UP, Status.PAUSED}))
        hypervisor.pause_vm(vm_id)
        paused = following.until_status(vm_id, frozenset({Status.PAUSED}))
        assert paused.process_id == started.process_id
        hypervisor.kill_vm(vm_id)
        ended = following.until_status(vm_id, ENDED)
        assert ended.exit_reason is not None
        hypervisor.undefine_vm(vm_id)
        assert following.until_gone(vm_id) is GoneReason.UNDEFINED
        assert vm_id not in {view.vm_id for view in hypervisor.source.list().vms}

    def test_a_vm_that_was_never_here_is_absent(self, hypervisor: Hypervisor) -> None:
        hypervisor.source.setup()
        reading = hypervisor.source.read(frozenset({VmId(b"\x42" * 16)}))
        assert reading.vms == []
        assert [(view.vm_id, view.reason) for view in reading.gone] == [(VmId(b"\x42" * 16), GoneReason.ABSENT)]

    def test_host_facets_are_those_declared(self, hypervisor: Hypervisor) -> None:
        hypervisor.source.setup()
        facets = hypervisor.source.host_facets()
        assert facets.keys() == set(HostFacet)
        assert all(type(value) is HOST_FACETS[name] for name, value in facets.items())
        reachability = facets[HostFacet.REACHABILITY]
        assert isinstance(reachability, HostReachability)
        assert reachability.source_connected

    def test_an_unreachable_hypervisor_is_no_empty_one(self, hypervisor: Hypervisor) -> None:
        hypervisor.source.setup()
        vm_id = hypervisor.start_vm()
        Following(hypervisor.source).until_status(vm_id, frozenset({Status.UP, Status.PAUSED}))
        hypervisor.disconnect()
        deadline = time.monotonic() + NOTICED_SECONDS
        while True:
            reachability = hypervisor.source.host_facets()[HostFacet.REACHABILITY]
            assert isinstance(reachability, HostReachability)
            if not reachability.source_connected:
                break
            assert time.monotonic() < deadline, "never told that the hypervisor is away"
            hypervisor.source.wait(0.1)
        with pytest.raises(SourceUnavailable):
            hypervisor.source.list()
        with pytest.raises(SourceUnavailable):
            hypervisor.source.read(frozenset({vm_id}))
        hypervisor.reconnect()
        while True:
            try:
                hypervisor.source.setup()
                listed = {view.vm_id for view in hypervisor.source.list().vms}
            except SourceUnavailable:
                assert time.monotonic() < deadline + NOTICED_SECONDS, "never back"
                time.sleep(0.1)
            else:
                break
        assert vm_id in listed


class SimulatedHypervisor:
    """Host 0 of a fleet of its own, with quick scripts."""

    def __init__(self) -> None:
        self._guard = threading.Condition()
        self._fleet = Fleet(hosts=2, vms=3, seed=5, clock=SystemClock())
        self.source: Source = SimulatedSource(self._fleet, 0, self._guard)

    def _index(self, vm_id: VmId) -> int:
        return next(vm.index for vm in self._fleet.vms if vm.vm_id == vm_id)

    def _play(self, script: Script) -> None:
        with self._guard:
            for step in script.steps:
                self._fleet.perform(step)
            self._guard.notify_all()

    def start_vm(self) -> VmId:
        with self._guard:
            vm = self._fleet.define(0)
        self._play(scripts.boot(vm))
        return self._fleet.vms[vm].vm_id

    def pause_vm(self, vm_id: VmId) -> None:
        self._play(scripts.pause(self._index(vm_id)))

    def kill_vm(self, vm_id: VmId) -> None:
        self._play(scripts.qemu_death(self._index(vm_id)))

    def undefine_vm(self, vm_id: VmId) -> None:
        self._play(scripts.undefine(self._index(vm_id)))

    def disconnect(self) -> None:
        with self._guard:
            self._fleet.set_connected(0, False)
            self._guard.notify_all()

    def reconnect(self) -> None:
        with self._guard:
            self._fleet.set_connected(0, True)
            self._guard.notify_all()


class TestSimulatedSource(SourceContract):
    """The suite over the simulator."""

    @pytest.fixture
    def hypervisor(self) -> SimulatedHypervisor:
        return SimulatedHypervisor()
