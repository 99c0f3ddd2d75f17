"""The source on a real libvirtd with real QEMU processes: what it says of what happens to them."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from producers.agent.source import SourceUnavailable
from producers.libvirt import open_source
from schemas.facets import Facet, HostFacet
from schemas.facets.devices import Device
from schemas.facets.host import HostCapacity, HostReachability, HostSystem
from schemas.facets.normal import fingerprint
from schemas.ids import VmId
from schemas.status import ExitReason, ExitStatus, GoneReason, PauseReason, Status
from tests.integration.libvirt.daemon import Guest, SessionLibvirtd, eventually
from tests.integration.libvirt.watching import Watcher

pytestmark = pytest.mark.libvirt

MAC = "52:54:00:12:34:56"


def started(libvirtd: SessionLibvirtd, watcher: Watcher, name: str) -> VmId:
    """A persistent domain that runs, and is known to."""
    vm_id = libvirtd.define(name)
    libvirtd.start_vm(name)
    watcher.until_status(vm_id, Status.UP)
    return vm_id


def test_a_life_from_definition_to_removal(libvirtd: SessionLibvirtd, watcher: Watcher) -> None:
    vm_id = libvirtd.define("life")
    defined = watcher.until_status(vm_id, Status.DOWN)
    assert (defined.exit_status, defined.exit_reason, defined.process_id) == (None, None, None)

    libvirtd.start_vm("life")
    up = watcher.until_status(vm_id, Status.UP)
    assert up.reason == "booted"
    assert up.process_id is not None
    assert up.started_at is not None
    assert abs(time.time_ns() - up.started_at) < 60e9

    libvirtd.pause_vm("life")
    paused = watcher.until_status(vm_id, Status.PAUSED)
    assert paused.pause_reason is PauseReason.USER
    libvirtd.resume_vm("life")
    resumed = watcher.until_status(vm_id, Status.UP)
    assert resumed.reason == "unpaused"
    assert up.process_id == paused.process_id == resumed.process_id

    libvirtd.destroy_vm("life")
    down = watcher.until_status(vm_id, Status.DOWN)
    assert (down.exit_status, down.exit_reason) == (ExitStatus.NORMAL, ExitReason.ADMIN_DESTROY)
    assert down.process_id is None

    libvirtd.undefine_vm("life")
    assert watcher.until_gone(vm_id) is GoneReason.UNDEFINED
    assert watcher.statuses(vm_id) == [Status.DOWN, Status.UP, Status.PAUSED, Status.UP, Status.DOWN]


def test_identity_and_its_change(libvirtd: SessionLibvirtd, watcher: Watcher) -> None:
    vm_id = started(libvirtd, watcher, "identity")
    identity = watcher.identities[vm_id]
    assert identity.name == "identity"
    assert (identity.vcpus, identity.memory_bytes, identity.persistent) == (1, 16 << 20, True)
    assert identity.machine is not None
    assert identity.machine.startswith("pc-i440fx")

    libvirtd.set_title("identity", "Bookkeeping")
    watcher.until(lambda: watcher.identities[vm_id].tags == {"title": "Bookkeeping"}, "the title is told")
    assert watcher.statuses(vm_id)[-1] is Status.UP


def test_hot_plug_changes_devices_alone(libvirtd: SessionLibvirtd, watcher: Watcher) -> None:
    vm_id = started(libvirtd, watcher, "plug")
    before = {device.alias for device in watcher.devices[vm_id].devices}
    runs = len(watcher.runs[vm_id])

    libvirtd.plug_nic("plug", MAC)
    image = libvirtd.plug_disk("plug", "vdb")
    watcher.until(lambda: len(watcher.devices[vm_id].devices) == len(before) + 2, "both devices are told")

    added = {device.alias: device for device in watcher.devices[vm_id].devices if device.alias not in before}
    assert (added["net0"].device_class, added["net0"].mac, added["net0"].model) == ("interface", MAC, "virtio")
    disk = added["virtio-disk1"]
    assert (disk.device_class, disk.target, disk.backend, disk.serial) == ("disk", "vdb", str(image), "SN-vdb")
    assert disk.address is not None
    assert disk.address.startswith("pci:0000:00:")
    assert len(watcher.runs[vm_id]) == runs


def test_devices_are_the_same_running_and_stopped(libvirtd: SessionLibvirtd, watcher: Watcher) -> None:
    vm_id = libvirtd.define("still", guest=Guest.PANICS)
    watcher.until_status(vm_id, Status.DOWN)
    defined: list[Device] = watcher.devices[vm_id].devices
    libvirtd.start_vm("still")
    watcher.until_status(vm_id, Status.CRASHED)
    assert len(watcher.runs[vm_id]) >= 2
    assert watcher.devices[vm_id].devices == defined
    assert {"virtio-disk0", "pci.0", "usb", "panic0"} <= {device.alias for device in defined}


def test_guest_powers_off(libvirtd: SessionLibvirtd, watcher: Watcher) -> None:
    vm_id = libvirtd.define("off", guest=Guest.POWERS_OFF)
    watcher.until_status(vm_id, Status.DOWN)
    libvirtd.start_vm("off")
    watcher.until(lambda: watcher.last(vm_id).exit_reason is not None, "the end is told")
    down = watcher.last(vm_id)
    assert (down.status, down.exit_status) == (Status.DOWN, ExitStatus.NORMAL)
    assert down.exit_reason is ExitReason.GUEST_SHUTDOWN


def test_guest_panics(libvirtd: SessionLibvirtd, watcher: Watcher) -> None:
    vm_id = libvirtd.define("panic", guest=Guest.PANICS)
    libvirtd.start_vm("panic")
    crashed = watcher.until_status(vm_id, Status.CRASHED)
    assert (crashed.exit_status, crashed.exit_reason) == (ExitStatus.ERROR, ExitReason.GUEST_PANIC)


@pytest.mark.parametrize(
    ("number", "status", "exit_status", "exit_reason"),
    [
        (signal.SIGKILL, Status.CRASHED, ExitStatus.ERROR, ExitReason.QEMU_DIED),
        (signal.SIGTERM, Status.DOWN, ExitStatus.NORMAL, ExitReason.HOST_SHUTDOWN),
    ],
)
def test_qemu_ends_by_a_signal(
    libvirtd: SessionLibvirtd,
    watcher: Watcher,
    number: signal.Signals,
    status: Status,
    exit_status: ExitStatus,
    exit_reason: ExitReason,
) -> None:
    vm_id = started(libvirtd, watcher, "signalled")
    libvirtd.signal_qemu("signalled", number)
    ended = watcher.until_status(vm_id, status)
    assert (ended.exit_status, ended.exit_reason, ended.process_id) == (exit_status, exit_reason, None)


def test_transient_domain_leaves_its_last_words(libvirtd: SessionLibvirtd, watcher: Watcher) -> None:
    vm_id = libvirtd.create_transient("fleeting")
    watcher.until_status(vm_id, Status.UP)
    assert watcher.identities[vm_id].persistent is False
    libvirtd.destroy_vm("fleeting")
    assert watcher.until_gone(vm_id) is GoneReason.TRANSIENT_ENDED
    last = watcher.last(vm_id)
    assert (last.status, last.exit_reason) == (Status.DOWN, ExitReason.ADMIN_DESTROY)


def test_running_domain_that_is_undefined_stays(libvirtd: SessionLibvirtd, watcher: Watcher) -> None:
    vm_id = started(libvirtd, watcher, "orphan")
    libvirtd.undefine_vm("orphan")
    watcher.until(lambda: watcher.identities[vm_id].persistent is False, "it is told transient")
    assert vm_id not in watcher.gone
    libvirtd.signal_qemu("orphan", signal.SIGKILL)
    assert watcher.until_gone(vm_id) is GoneReason.TRANSIENT_ENDED
    assert watcher.last(vm_id).exit_reason is ExitReason.QEMU_DIED


def test_a_listing_between_the_end_and_its_reading_concludes_nothing(
    libvirtd: SessionLibvirtd, watcher: Watcher
) -> None:
    vm_id = libvirtd.create_transient("between")
    watcher.until_status(vm_id, Status.UP)
    libvirtd.destroy_vm("between")
    watcher.take(watcher.source.list())
    assert vm_id not in watcher.gone
    assert watcher.until_gone(vm_id) is GoneReason.TRANSIENT_ENDED
    assert vm_id not in {view.vm_id for view in watcher.source.list().vms}


def test_managed_save_and_restore(libvirtd: SessionLibvirtd, watcher: Watcher) -> None:
    vm_id = started(libvirtd, watcher, "saved")
    libvirtd.save_vm("saved")
    saved = watcher.until_status(vm_id, Status.SUSPENDED)
    assert (saved.reason, saved.exit_reason) == ("to_disk", ExitReason.SAVED)
    libvirtd.start_vm("saved")
    assert watcher.until_status(vm_id, Status.UP).exit_reason is None


def test_reset_is_a_reboot_of_the_same_process(libvirtd: SessionLibvirtd, watcher: Watcher) -> None:
    vm_id = started(libvirtd, watcher, "reset")
    process_id = watcher.last(vm_id).process_id
    libvirtd.reset_vm("reset")
    assert watcher.until_status(vm_id, Status.REBOOTING).process_id == process_id


def test_new_process_for_every_start(libvirtd: SessionLibvirtd, watcher: Watcher) -> None:
    vm_id = started(libvirtd, watcher, "again")
    first = watcher.last(vm_id).process_id
    libvirtd.destroy_vm("again")
    watcher.until_status(vm_id, Status.DOWN)
    libvirtd.start_vm("again")
    assert watcher.until_status(vm_id, Status.UP).process_id != first


def test_deaths_while_libvirtd_is_down(libvirtd: SessionLibvirtd, watcher: Watcher) -> None:
    dead = started(libvirtd, watcher, "dead")
    alive = started(libvirtd, watcher, "alive")
    fleeting = libvirtd.create_transient("fleeting")
    watcher.until_status(fleeting, Status.UP)
    process_id = watcher.last(alive).process_id
    told = len(watcher.runs[alive])

    libvirtd.kill()
    watcher.until(lambda: watcher.reachability[-1:] == [False], "libvirtd is told unreachable")
    for ask in (watcher.source.list, lambda: watcher.source.read(frozenset({dead}))):
        with pytest.raises(SourceUnavailable):
            ask()
    libvirtd.signal_qemu("dead", signal.SIGKILL)
    libvirtd.signal_qemu("fleeting", signal.SIGKILL)
    assert watcher.turn().dirty == frozenset()
    assert not watcher.gone
    assert watcher.last(dead).status is Status.UP

    libvirtd.start()
    crashed = watcher.until_status(dead, Status.CRASHED)
    assert crashed.exit_reason is ExitReason.QEMU_DIED
    assert watcher.until_gone(fleeting) is GoneReason.ABSENT
    assert watcher.reachability[-1] is True
    assert len(watcher.runs[alive]) == told
    assert watcher.last(alive).process_id == process_id


def test_end_of_a_run_is_not_forgotten_with_libvirtd(libvirtd: SessionLibvirtd, watcher: Watcher) -> None:
    vm_id = started(libvirtd, watcher, "ended")
    libvirtd.signal_qemu("ended", signal.SIGKILL)
    watcher.until_status(vm_id, Status.CRASHED)
    told = len(watcher.runs[vm_id])
    libvirtd.restart()
    watcher.until(lambda: watcher.connections == 2, "it is connected again")
    assert len(watcher.runs[vm_id]) == told


def test_events_come_after_a_reconnect(libvirtd: SessionLibvirtd, watcher: Watcher) -> None:
    vm_id = started(libvirtd, watcher, "events")
    libvirtd.restart()
    watcher.until(lambda: watcher.connections == 2, "it is connected again")
    libvirtd.pause_vm("events")
    watcher.until_status(vm_id, Status.PAUSED)
    assert watcher.connections == 2


def test_libvirtd_that_stands_still_is_given_up(libvirtd: SessionLibvirtd, monkeypatch: pytest.MonkeyPatch) -> None:
    from producers.libvirt import connection

    monkeypatch.setattr(connection, "KEEPALIVE_SECONDS", 1)
    monkeypatch.setattr(connection, "KEEPALIVE_COUNT", 1)
    with Watcher(libvirtd.uri) as watcher:
        libvirtd.freeze()
        began = time.monotonic()
        with pytest.raises(SourceUnavailable):
            watcher.source.list()
        assert time.monotonic() - began < 10
        libvirtd.thaw()
        watcher.until(lambda: watcher.connections == 2, "it is connected again")
        assert watcher.source.list().vms == []


def test_events_of_one_action_are_one_hint(libvirtd: SessionLibvirtd, watcher: Watcher) -> None:
    vm_id = started(libvirtd, watcher, "burst")
    before = len(watcher.hints)
    for _ in range(10):
        libvirtd.pause_vm("burst")
        libvirtd.resume_vm("burst")
    watcher.until(lambda: not watcher.turn().dirty, "nothing more comes")
    hinted = [hints for hints in watcher.hints[before:] if hints.dirty]
    assert 1 <= len(hinted) <= 3
    assert {vm for hints in hinted for vm in hints.dirty} == {vm_id}


def test_agent_restart_changes_nothing(libvirtd: SessionLibvirtd, watcher: Watcher) -> None:
    running = started(libvirtd, watcher, "running")
    ended = started(libvirtd, watcher, "ended")
    libvirtd.plug_nic("running", MAC)
    libvirtd.destroy_vm("ended")
    watcher.until_status(ended, Status.DOWN)
    first = {view.vm_id: view.facets for view in watcher.source.list().vms}
    with Watcher(libvirtd.uri) as other:
        second = {view.vm_id: view.facets for view in other.source.list().vms}
    assert first.keys() == second.keys() == {running, ended}
    for vm_id, facets in first.items():
        assert facets.keys() == {Facet.IDENTITY, Facet.RUN, Facet.DEVICES}
        for facet, value in facets.items():
            assert fingerprint(value) == fingerprint(second[vm_id][facet]), facet


def test_listing_is_complete_and_sorted(libvirtd: SessionLibvirtd, watcher: Watcher) -> None:
    ids = [libvirtd.define(f"listed-{number}") for number in range(5)]
    libvirtd.start_vm("listed-3")
    assert [view.vm_id for view in watcher.source.list().vms] == sorted(ids)


def test_unknown_vm_is_absent(watcher: Watcher) -> None:
    stranger = VmId(bytes(range(16)))
    reading = watcher.source.read(frozenset({stranger}))
    assert reading.vms == []
    assert [(view.vm_id, view.reason) for view in reading.gone] == [(stranger, GoneReason.ABSENT)]


def test_host_facets(watcher: Watcher) -> None:
    facets = watcher.source.host_facets()
    system, capacity = facets[HostFacet.SYSTEM], facets[HostFacet.CAPACITY]
    assert isinstance(system, HostSystem)
    assert system.hypervisor is not None
    assert system.hypervisor.startswith("QEMU ")
    assert isinstance(capacity, HostCapacity)
    assert (capacity.cpus or 0) >= 1
    assert (capacity.memory_bytes or 0) > 1 << 28
    assert facets[HostFacet.REACHABILITY] == HostReachability(
        source_connected=True, since=getattr(facets[HostFacet.REACHABILITY], "since", None)
    )


def test_connection_can_not_change_a_vm(libvirtd: SessionLibvirtd, watcher: Watcher) -> None:
    import libvirt

    vm_id = started(libvirtd, watcher, "guarded")
    link, _ = watcher.source._link.current()
    with pytest.raises(libvirt.libvirtError) as refused:
        link.domain(vm_id).destroy()
    assert refused.value.get_error_code() == libvirt.VIR_ERR_OPERATION_DENIED


def test_nobody_there(tmp_path: Path) -> None:
    pytest.importorskip("libvirt", reason="the libvirt binding is not installed; run infra/stack/libvirt.sh")
    source = open_source(f"qemu+unix:///session?socket={tmp_path / 'none'}")
    try:
        for _ in range(2):
            with pytest.raises(SourceUnavailable, match="none"):
                source.setup()
        reachability = source.host_facets()[HostFacet.REACHABILITY]
        assert isinstance(reachability, HostReachability)
        assert reachability.source_connected is False
        assert "none" in (reachability.reason or "")
    finally:
        source.close()


def test_source_that_waits_for_libvirtd_finds_it(libvirtd: SessionLibvirtd) -> None:
    libvirtd.stop()
    source = open_source(libvirtd.uri)
    try:
        with pytest.raises(SourceUnavailable):
            source.setup()
        libvirtd.start()
        eventually(lambda: source.wait(0.2).relist, "the source connects by itself")
        assert source.list().vms == []
    finally:
        source.close()
