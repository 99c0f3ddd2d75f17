"""One libvirtd for all tests here: its first start probes QEMU, which takes some seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.libvirt.daemon import SessionLibvirtd, why_unavailable
from tests.integration.libvirt.watching import Watcher


@pytest.fixture(scope="session")
def shared_libvirtd() -> Iterator[SessionLibvirtd]:
    """The daemon of this run; skips where one can not be had."""
    missing = why_unavailable()
    if missing is not None:
        pytest.skip(f"libvirt tests: {missing}")
    with SessionLibvirtd() as daemon:
        yield daemon


@pytest.fixture
def libvirtd(shared_libvirtd: SessionLibvirtd) -> Iterator[SessionLibvirtd]:
    """The daemon without any domain, running."""
    yield shared_libvirtd
    shared_libvirtd.clear()


@pytest.fixture
def watcher(libvirtd: SessionLibvirtd) -> Iterator[Watcher]:
    """A source on that daemon, connected, and what it has told so far."""
    with Watcher(libvirtd.uri) as watching:
        yield watching
