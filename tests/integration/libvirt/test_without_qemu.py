"""The source on libvirt's test driver: no daemon, no QEMU, and half of libvirt's functions missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from schemas.facets import HostFacet
from schemas.facets.host import HostReachability
from schemas.ids import VmId
from schemas.status import ExitReason, GoneReason, PauseReason, Status
from tests.integration.libvirt.watching import Watcher

pytestmark = pytest.mark.libvirt

URI = "test:///default"


@pytest.fixture
def driver() -> Iterator[Any]:
    """A second connection to the same invented host, to act with."""
    libvirt = pytest.importorskip("libvirt", reason="the libvirt binding is not installed; run infra/stack/libvirt.sh")
    connection = libvirt.open(URI)
    yield connection
    connection.close()


def test_a_life(driver: Any) -> None:
    with Watcher(URI) as watcher:
        domain = driver.createXML(
            "<domain type='test'><name>brief</name><memory>8192</memory><os><type>hvm</type></os></domain>"
        )
        vm_id = VmId(bytes(domain.UUID()))
        assert watcher.until_status(vm_id, Status.UP).process_id == str(domain.ID())
        domain.suspend()
        assert watcher.until_status(vm_id, Status.PAUSED).pause_reason is PauseReason.USER
        domain.resume()
        watcher.until_status(vm_id, Status.UP)
        domain.destroy()
        assert watcher.until_gone(vm_id) is GoneReason.TRANSIENT_ENDED
        assert watcher.last(vm_id).exit_reason is ExitReason.ADMIN_DESTROY


def test_the_host(driver: Any) -> None:
    with Watcher(URI) as watcher:
        facets = watcher.source.host_facets()
        assert facets.keys() == set(HostFacet)
        assert isinstance(facets[HostFacet.REACHABILITY], HostReachability)
        assert [view.vm_id for view in watcher.source.list().vms] == sorted(
            VmId(bytes(domain.UUID())) for domain in driver.listAllDomains(0)
        )


def test_closing_twice_and_at_once(driver: Any) -> None:
    watcher = Watcher(URI)
    watcher.source.close()
    watcher.source.close()
    with Watcher(URI) as other:
        other.source.close()
