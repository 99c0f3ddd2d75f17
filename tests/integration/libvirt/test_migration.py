"""A live migration between two daemons, seen from both sides: cancelled once, then successful."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from schemas.facets.run import Migration
from schemas.status import ExitReason, ExitStatus, GoneReason, Status
from tests.integration.libvirt.daemon import Guest, SessionLibvirtd
from tests.integration.libvirt.watching import Watcher

pytestmark = [pytest.mark.libvirt, pytest.mark.slow]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_cancelled_then_successful(libvirtd: SessionLibvirtd, watcher: Watcher) -> None:
    import libvirt

    with SessionLibvirtd() as other, Watcher(other.uri) as there:
        vm_id = libvirtd.define("mover", guest=Guest.WRITES)
        libvirtd.start_vm("mover")
        watcher.until_status(vm_id, Status.UP)

        def migrate_slowly() -> None:
            with contextlib.suppress(libvirt.libvirtError):
                libvirtd.migrate_vm("mover", other, port=free_port(), mib_per_second=1)

        slow = threading.Thread(target=migrate_slowly)
        slow.start()
        outgoing = watcher.until_status(vm_id, Status.MIGRATING_FROM)
        assert outgoing.migration == Migration(direction="out", phase="pre_copy")
        incoming = there.until_status(vm_id, Status.MIGRATING_TO)
        assert incoming.migration == Migration(direction="in")

        libvirtd.abort_job("mover")
        slow.join()
        watcher.until_status(vm_id, Status.UP)
        assert there.until_gone(vm_id) is GoneReason.TRANSIENT_ENDED
        failed = there.last(vm_id)
        assert (failed.status, failed.exit_status) == (Status.DOWN, ExitStatus.ERROR)
        assert failed.exit_reason is ExitReason.MIGRATION_FAILED

        libvirtd.migrate_vm("mover", other, port=free_port())
        arrived = there.until_status(vm_id, Status.UP)
        assert arrived.reason == "migrated"
        left = watcher.until_status(vm_id, Status.DOWN)
        assert (left.exit_status, left.exit_reason) == (ExitStatus.NORMAL, ExitReason.MIGRATED)
