"""What events told about a VM and its state does not: who shut it down, how a transient one ended, a guest reboot.

Pure. Everything here is lost with the agent and with the connection, so nothing may depend on it but details.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum, auto

from producers.libvirt.numbers import AGENT_CONNECTED, IO_ERROR_PAUSE, Lifecycle, Shutdown, Stopped, Undefined
from schemas.ids import VmId
from schemas.status import PauseErrno

REBOOT_NS = 60_000_000_000
"""How long a VM without a guest agent counts as rebooting; with one, until the agent is back."""


class EventKind(Enum):
    """Kinds of events whose content matters; all others are only hints."""

    LIFECYCLE = auto()
    REBOOT = auto()
    IO_ERROR = auto()
    GUEST_AGENT = auto()
    HINT = auto()


@dataclass(frozen=True, slots=True)
class Event:
    """One event as its callback copied it. ``arguments`` are the binding's, without connection and domain."""

    vm_id: VmId
    kind: EventKind
    arguments: tuple[object, ...]
    at_monotonic_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Chronicle:
    """Of one run of one VM: begins with its start, and stays until the next."""

    shutdown: Shutdown | None = None
    """Who asked for the shutdown that is under way or over."""
    stopped: Stopped | None = None
    panicked: bool = False
    undefined: bool = False
    """The definition was removed, after the end of the run if there was one."""
    io_errno: PauseErrno | None = None
    rebooted_at_ns: int | None = None
    """Monotonic time of the last guest reboot, None when it is known to be over."""

    @property
    def is_ending(self) -> bool:
        """True between the shutdown of the guest and the end of the process."""
        return self.shutdown is not None and self.stopped is None

    def is_rebooting(self, now_monotonic_ns: int) -> bool:
        """True within the window of a guest reboot."""
        return self.rebooted_at_ns is not None and now_monotonic_ns - self.rebooted_at_ns < REBOOT_NS


def told(chronicle: Chronicle, event: Event) -> Chronicle:
    """The chronicle after one more event. Numbers of a newer libvirt change nothing."""
    arguments = event.arguments
    if event.kind is EventKind.LIFECYCLE and len(arguments) >= 2:
        return _told_lifecycle(chronicle, arguments[0], arguments[1])
    if event.kind is EventKind.REBOOT:
        return dataclasses.replace(chronicle, rebooted_at_ns=event.at_monotonic_ns)
    if event.kind is EventKind.GUEST_AGENT and arguments[:1] == (AGENT_CONNECTED,):
        return dataclasses.replace(chronicle, rebooted_at_ns=None)
    if event.kind is EventKind.IO_ERROR and len(arguments) >= 4 and arguments[2] == IO_ERROR_PAUSE:
        return dataclasses.replace(chronicle, io_errno=errno_of(arguments[3]))
    return chronicle


def errno_of(reason: object) -> PauseErrno:
    """libvirt's reason of an I/O error; it names only the full disk for sure, and may name nothing."""
    try:
        return PauseErrno(str(reason).lower())
    except ValueError:
        return PauseErrno.EOTHER


def _told_lifecycle(chronicle: Chronicle, event: object, detail: object) -> Chronicle:
    match event:
        case Lifecycle.STARTED:
            return Chronicle()
        case Lifecycle.RESUMED:
            return dataclasses.replace(chronicle, io_errno=None)
        case Lifecycle.SHUTDOWN if detail in tuple(Shutdown):
            return dataclasses.replace(chronicle, shutdown=Shutdown(int(str(detail))))
        case Lifecycle.CRASHED:
            return dataclasses.replace(chronicle, panicked=True)
        case Lifecycle.STOPPED if detail in tuple(Stopped):
            stopped = Stopped(int(str(detail)))
            return dataclasses.replace(
                chronicle,
                stopped=stopped,
                panicked=chronicle.panicked or stopped is Stopped.CRASHED,
                undefined=False,
                rebooted_at_ns=None,
            )
        case Lifecycle.UNDEFINED if detail != Undefined.RENAMED:
            return dataclasses.replace(chronicle, undefined=True)
        case Lifecycle.DEFINED:
            return dataclasses.replace(chronicle, undefined=False)
    return chronicle
