"""The source contract over a real libvirtd with real QEMU processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import count

import pytest

from producers.agent.source import Source
from producers.libvirt import open_source
from schemas.ids import BootId, HostId, MachineId, VmId
from tests.contract.test_source_contract import SourceContract
from tests.integration.libvirt.daemon import SessionLibvirtd, why_unavailable

pytestmark = pytest.mark.libvirt


class RealHypervisor:
    """A session libvirtd and tiny domains in it."""

    def __init__(self, daemon: SessionLibvirtd) -> None:
        self._daemon = daemon
        self._names: dict[VmId, str] = {}
        self._numbers = count(1)
        self.source: Source = open_source(
            daemon.uri,
            host_id=HostId(os.urandom(16)),
            machine_id=MachineId(os.urandom(16)),
            boot_id=BootId(os.urandom(16)),
        )

    def start_vm(self) -> VmId:
        name = f"contract-{next(self._numbers)}"
        vm_id = self._daemon.define(name)
        self._names[vm_id] = name
        self._daemon.start_vm(name)
        return vm_id

    def pause_vm(self, vm_id: VmId) -> None:
        self._daemon.pause_vm(self._names[vm_id])

    def kill_vm(self, vm_id: VmId) -> None:
        self._daemon.signal_qemu(self._names[vm_id], signal.SIGKILL)

    def undefine_vm(self, vm_id: VmId) -> None:
        self._daemon.undefine_vm(self._names[vm_id])

    def disconnect(self) -> None:
        self._daemon.stop()

    def reconnect(self) -> None:
        self._daemon.start()


@pytest.fixture(scope="module")
def daemon() -> Iterator[SessionLibvirtd]:
    """One libvirtd for the suite; skips where there is none."""
    missing = why_unavailable()
    if missing is not None:
        pytest.skip(f"libvirt tests: {missing}")
    with SessionLibvirtd() as started:
        yield started


class TestLibvirtSource(SourceContract):
    """The suite over libvirt."""

    @pytest.fixture
    def hypervisor(self, daemon: SessionLibvirtd) -> Iterator[RealHypervisor]:
        hypervisor = RealHypervisor(daemon)
        yield hypervisor
        hypervisor.source.close()
        daemon.clear()
