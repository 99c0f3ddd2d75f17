"""Our copy of libvirt's numbers against those of the installed binding."""

from __future__ import annotations

from enum import IntEnum

import pytest

from producers.libvirt import numbers

pytestmark = pytest.mark.libvirt

FAMILIES: list[tuple[type[IntEnum], str]] = [
    (numbers.State, "VIR_DOMAIN_"),
    (numbers.Running, "VIR_DOMAIN_RUNNING_"),
    (numbers.Paused, "VIR_DOMAIN_PAUSED_"),
    (numbers.Shutoff, "VIR_DOMAIN_SHUTOFF_"),
    (numbers.Lifecycle, "VIR_DOMAIN_EVENT_"),
    (numbers.Stopped, "VIR_DOMAIN_EVENT_STOPPED_"),
    (numbers.Shutdown, "VIR_DOMAIN_EVENT_SHUTDOWN_"),
    (numbers.Undefined, "VIR_DOMAIN_EVENT_UNDEFINED_"),
    (numbers.Job, "VIR_DOMAIN_JOB_OPERATION_"),
    (numbers.Control, "VIR_DOMAIN_CONTROL_"),
    (numbers.DiskError, "VIR_DOMAIN_DISK_ERROR_"),
]


@pytest.mark.parametrize(("family", "prefix"), FAMILIES, ids=lambda value: getattr(value, "__name__", value))
def test_numbers_are_libvirts(family: type[IntEnum], prefix: str) -> None:
    libvirt = pytest.importorskip("libvirt")
    known = {name: getattr(libvirt, prefix + name) for name in family.__members__ if hasattr(libvirt, prefix + name)}
    assert known
    assert known == {name: int(family[name]) for name in known}


def test_other_numbers_are_libvirts() -> None:
    libvirt = pytest.importorskip("libvirt")
    assert libvirt.VIR_DOMAIN_EVENT_IO_ERROR_PAUSE == numbers.IO_ERROR_PAUSE
    assert libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED == numbers.AGENT_CONNECTED
