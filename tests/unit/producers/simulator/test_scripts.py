"""What a host would answer after each script, and what is true then."""

from __future__ import annotations

import pytest

from producers.agent.source import VmView
from producers.simulator import migrations, scripts
from producers.simulator.clock import VirtualClock, elapse
from producers.simulator.fleet import Fleet, Script
from producers.simulator.truth import truth_of
from schemas.facets import Facet
from schemas.facets.console import Console
from schemas.facets.devices import Devices
from schemas.facets.guest import Guest
from schemas.facets.jobs import Jobs
from schemas.facets.run import Run
from schemas.ids import uuid_text
from schemas.status import Believed, ExitReason, ExitStatus, GoneReason, PauseErrno, PauseReason, Reachability, Status


class Play:
    """A fleet of 3 hosts and 9 VMs in virtual time, and every status that each host's agent would have read."""

    def __init__(self, *, started: bool = True) -> None:
        self.clock = VirtualClock()
        self.fleet = Fleet(hosts=3, vms=9, seed=1, clock=self.clock, started=started)
        self.statuses: dict[tuple[int, int], list[str]] = {}

    def run(self, script: Script) -> None:
        for step in script.steps:
            self.clock.move(step.after_seconds)
            self.fleet.perform(step)
            self.look()

    def look(self) -> None:
        for host in self.fleet.hosts:
            for reading in self.fleet.readings(host.index):
                for view in reading.vms:
                    self._note(host.index, view)
                for gone in reading.gone:
                    index = next(vm.index for vm in self.fleet.vms if vm.vm_id == gone.vm_id)
                    self.statuses.setdefault((index, host.index), []).append(f"gone {gone.reason}")

    def _note(self, host: int, view: VmView) -> None:
        run = view.facets[Facet.RUN]
        assert isinstance(run, Run)
        index = next(vm.index for vm in self.fleet.vms if vm.vm_id == view.vm_id)
        seen = self.statuses.setdefault((index, host), [])
        if not seen or seen[-1] != run.status:
            seen.append(run.status)

    def run_facet(self, vm: int) -> Run:
        run = self.fleet.run_of(vm)
        assert run is not None
        return run

    def status(self, vm: int) -> tuple[Status, str | None]:
        true = truth_of(self.fleet).vms[uuid_text(self.fleet.vms[vm].vm_id)]
        return true.status, true.host_id

    def host_text(self, host: int) -> str:
        return uuid_text(self.fleet.hosts[host].host_id)


def test_boot_and_stop() -> None:
    play = Play(started=False)
    assert play.status(4) == (Status.DOWN, play.host_text(1))
    play.run(scripts.boot(4))
    first = play.run_facet(4).process_id
    play.run(scripts.stop(4))
    run = play.run_facet(4)
    assert (run.exit_status, run.exit_reason) == (ExitStatus.NORMAL, ExitReason.GUEST_SHUTDOWN)
    play.run(scripts.boot(4))
    assert play.statuses[4, 1] == ["starting", "up", "powering_down", "down", "starting", "up"]
    assert play.run_facet(4).process_id != first


def test_a_run_ends_what_belongs_to_it() -> None:
    play = Play()
    play.run(scripts.connect(0))
    play.run(scripts.plug(0))
    assert play.fleet.facets_of(0, 0).keys() >= {Facet.GUEST, Facet.CONSOLE, Facet.JOBS}
    play.run(scripts.destroy(0))
    assert play.fleet.facets_of(0, 0).keys() == {Facet.IDENTITY, Facet.RUN, Facet.DEVICES}
    play.run(scripts.boot(0))
    console = play.fleet.facets_of(0, 0)[Facet.CONSOLE]
    devices = play.fleet.facets_of(0, 0)[Facet.DEVICES]
    assert isinstance(console, Console)
    assert isinstance(devices, Devices)
    assert console.client_ip is None
    assert {device.alias for device in devices.devices} == {"channel0", "net0", "virtio-disk0", "virtio-disk1"}


def test_death_pause_and_errors() -> None:
    play = Play()
    play.run(scripts.qemu_death(0))
    assert play.run_facet(0).exit_reason is ExitReason.QEMU_DIED
    play.run(scripts.pause(1))
    assert play.run_facet(1).pause_reason is PauseReason.USER
    play.run(scripts.resume(1))
    assert play.run_facet(1).pause_reason is None
    play.run(scripts.io_error(2, PauseErrno.EIO))
    assert (play.run_facet(2).pause_reason, play.run_facet(2).pause_errno) == (PauseReason.IO_ERROR, PauseErrno.EIO)


def test_reboot_keeps_the_process_and_the_guest_goes_stale() -> None:
    play = Play()
    process = play.run_facet(0).process_id
    script = scripts.reboot(0)
    play.fleet.perform(script.steps[0])
    guest = play.fleet.facets_of(0, 0)[Facet.GUEST]
    assert isinstance(guest, Guest)
    assert (guest.agent_connected, guest.stale, bool(guest.nics)) == (False, True, True)
    for step in script.steps[1:]:
        play.fleet.perform(step)
    guest = play.fleet.facets_of(0, 0)[Facet.GUEST]
    assert isinstance(guest, Guest)
    assert (guest.agent_connected, guest.stale) == (True, False)
    assert play.run_facet(0).process_id == process


def test_block_job_and_guest_change() -> None:
    play = Play()
    script = scripts.block_job(0)
    play.fleet.perform(script.steps[0])
    jobs = play.fleet.facets_of(0, 0)[Facet.JOBS]
    assert isinstance(jobs, Jobs)
    assert len(jobs.jobs) == 1
    before = play.fleet.facets_of(0, 0)[Facet.GUEST]
    play.run(scripts.guest_change(0))
    after = play.fleet.facets_of(0, 0)[Facet.GUEST]
    assert isinstance(before, Guest)
    assert isinstance(after, Guest)
    assert before.nics != after.nics


SIDES = {"S1": "migrating_from", "D1": "migrating_to", "D2": "up"}


@pytest.mark.parametrize("stays", [False, True])
@pytest.mark.parametrize("order", list(migrations.MIGRATION_ORDERS))
def test_migration_in_every_order(order: str, stays: bool) -> None:
    play = Play()
    play.run(migrations.migrate(0, 2, order=migrations.MIGRATION_ORDERS[order], source_stays_defined=stays))
    told = order.split()
    end = "down" if stays else "gone migrated"
    assert play.statuses[0, 0] == [*(SIDES[name] for name in told if name == "S1"), end]
    assert play.statuses[0, 2] == [SIDES[name] for name in told if name in ("D1", "D2")]
    assert play.status(0) == (Status.UP, play.host_text(2))
    assert play.fleet.facets_of(0, 2).keys() >= {Facet.GUEST, Facet.CONSOLE}
    guest = play.fleet.facets_of(0, 2)[Facet.GUEST]
    assert isinstance(guest, Guest)
    assert guest.agent_connected
    assert (0 in play.fleet.hosts[0].runs) is stays


def test_migration_names_its_peer() -> None:
    play = Play()
    play.fleet.perform(migrations.migrate(0, 2).steps[0])
    migration = play.run_facet(0).migration
    assert migration is not None
    assert (migration.direction, migration.peer) == ("out", play.host_text(2))


@pytest.mark.parametrize("script", [migrations.migrate_fail(0, 1), migrations.migrate_cancel(0, 1)])
def test_a_migration_that_does_not_happen(script: Script) -> None:
    play = Play()
    process = play.run_facet(0).process_id
    play.run(script)
    assert play.status(0) == (Status.UP, play.host_text(0))
    assert play.run_facet(0).process_id == process
    assert play.statuses[0, 1][-1] == f"gone {GoneReason.TRANSIENT_ENDED}"


def test_host_crash_and_return() -> None:
    play = Play()
    before = play.fleet.hosts[0].boot_id
    play.run(scripts.crash_host(0))
    true = truth_of(play.fleet)
    assert true.hosts[play.host_text(0)].reachability is Reachability.SILENT
    assert true.vms[uuid_text(play.fleet.vms[3].vm_id)].availability is Believed.UNKNOWN
    assert true.vms[uuid_text(play.fleet.vms[3].vm_id)].status is Status.UP
    play.run(scripts.return_host(0))
    true = truth_of(play.fleet)
    vm = true.vms[uuid_text(play.fleet.vms[3].vm_id)]
    assert (vm.status, vm.exit_status, vm.exit_reason) == (Status.DOWN, ExitStatus.ERROR, ExitReason.HOST_LOST)
    assert play.fleet.hosts[0].boot_id != before
    play.run(scripts.boot(3))
    assert truth_of(play.fleet).vms[uuid_text(play.fleet.vms[3].vm_id)].exit_reason is None


def test_define_undefine_define_again() -> None:
    play = Play()
    play.run(scripts.define(1))
    assert play.status(9) == (Status.DOWN, play.host_text(1))
    play.run(scripts.undefine(9))
    assert play.status(9) == (Status.REMOVED, None)
    assert play.statuses[9, 1][-1] == "gone undefined"
    play.run(scripts.define_again(9))
    assert play.status(9) == (Status.DOWN, play.host_text(1))


def test_storm_boots_everything() -> None:
    play = Play(started=False)
    play.fleet.start(scripts.storm(range(9), over_seconds=3.0))
    elapse(play.fleet, play.clock, 10.0)
    assert {vm.status for vm in truth_of(play.fleet).vms.values()} == {Status.UP}
    assert play.fleet.running_scripts == 0
    assert play.fleet.busy == set()


def test_scripts_one_after_the_other() -> None:
    play = Play()
    script = scripts.then(scripts.stop(0), scripts.boot(0), after_seconds=0.5)
    assert script.vms == (0,)
    play.run(script)
    assert play.statuses[0, 0] == ["powering_down", "down", "starting", "up"]
