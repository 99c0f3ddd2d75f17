"""What events leave behind, with the sequences that real libvirt sends."""

from __future__ import annotations

from functools import reduce

import pytest

from producers.libvirt.chronicle import REBOOT_NS, Chronicle, Event, EventKind, told
from producers.libvirt.mapping import gone_reason_of
from producers.libvirt.numbers import Shutdown, Stopped
from schemas.ids import VmId
from schemas.status import GoneReason, PauseErrno

VM = VmId(bytes(16))


def lifecycle(*pairs: tuple[int, int], begin: Chronicle | None = None) -> Chronicle:
    events = [Event(VM, EventKind.LIFECYCLE, pair, at) for at, pair in enumerate(pairs)]
    return reduce(told, events, begin or Chronicle())


def one(kind: EventKind, *arguments: object, at: int = 0, begin: Chronicle | None = None) -> Chronicle:
    return told(begin or Chronicle(), Event(VM, kind, arguments, at))


def test_guest_powers_off() -> None:
    chronicle = lifecycle((4, 0), (2, 0), (6, 1), (5, 0))
    assert (chronicle.shutdown, chronicle.stopped) == (Shutdown.GUEST, Stopped.SHUTDOWN)


def test_destroyed_by_the_administrator() -> None:
    chronicle = lifecycle((2, 0), (6, 2), (5, 1))
    assert (chronicle.shutdown, chronicle.stopped) == (Shutdown.HOST, Stopped.DESTROYED)


def test_only_the_shutdown_is_an_end_under_way() -> None:
    assert lifecycle((2, 0), (6, 1)).is_ending
    assert not lifecycle((2, 0), (6, 1), (5, 0)).is_ending
    assert not lifecycle((2, 0)).is_ending


def test_a_start_begins_a_new_chronicle() -> None:
    assert lifecycle((6, 1), (5, 0), (4, 0), (2, 0)) == Chronicle()


@pytest.mark.parametrize("pairs", [((8, 0), (5, 2)), ((5, 2),), ((8, 0),)])
def test_guest_panic(pairs: tuple[tuple[int, int], ...]) -> None:
    assert lifecycle(*pairs).panicked


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        (((1, 0),), GoneReason.UNDEFINED),
        (((2, 0), (1, 0), (5, 5)), GoneReason.TRANSIENT_ENDED),
        (((2, 0), (5, 1), (1, 0)), GoneReason.UNDEFINED),
        (((5, 3), (1, 0)), GoneReason.MIGRATED),
        (((1, 1), (0, 2)), GoneReason.ABSENT),
        (((1, 0), (0, 0)), GoneReason.ABSENT),
    ],
)
def test_order_of_end_and_removal(pairs: tuple[tuple[int, int], ...], reason: GoneReason) -> None:
    assert gone_reason_of(lifecycle(*pairs)) is reason


@pytest.mark.parametrize("pair", [(5, 77), (6, 77), (77, 0), (2,), ()])
def test_numbers_of_a_newer_libvirt_are_harmless(pair: tuple[int, ...]) -> None:
    chronicle = told(Chronicle(), Event(VM, EventKind.LIFECYCLE, pair, 0))
    assert chronicle == Chronicle()


def test_reboot_lasts_until_the_agent_is_back() -> None:
    rebooted = one(EventKind.REBOOT, at=100)
    assert rebooted.is_rebooting(100)
    assert rebooted.is_rebooting(99 + REBOOT_NS)
    assert not rebooted.is_rebooting(100 + REBOOT_NS)
    assert one(EventKind.GUEST_AGENT, 2, 2, begin=rebooted).is_rebooting(101)
    assert not one(EventKind.GUEST_AGENT, 1, 2, begin=rebooted).is_rebooting(101)
    assert not lifecycle((5, 0), begin=rebooted).is_rebooting(101)


@pytest.mark.parametrize(
    ("reason", "errno"),
    [("enospc", PauseErrno.ENOSPC), ("EIO", PauseErrno.EIO), ("eperm", PauseErrno.EPERM), ("", PauseErrno.EOTHER)],
)
def test_io_error_that_pauses(reason: str, errno: PauseErrno) -> None:
    chronicle = one(EventKind.IO_ERROR, "/srv/disk", "virtio-disk0", 1, reason)
    assert chronicle.io_errno is errno
    assert lifecycle((3, 2), begin=chronicle).io_errno is errno
    assert lifecycle((4, 0), begin=chronicle).io_errno is None


def test_io_error_that_is_only_reported_pauses_nothing() -> None:
    assert one(EventKind.IO_ERROR, "/srv/disk", "virtio-disk0", 2, "enospc") == Chronicle()


def test_hints_say_nothing() -> None:
    assert one(EventKind.HINT, "net0") == Chronicle()
