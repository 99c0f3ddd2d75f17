"""One read-only connection to libvirtd, from its opening to its end, and the events that come through it.

Read-only is enough for all events, states and definitions, and can not harm a VM. Only calls that return at once are
made on it; those that enter QEMU's monitor come after a look at `control`, since one stuck call blocks the next four.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import libvirt

from producers.agent.source import SourceUnavailable
from producers.libvirt.chronicle import Event, EventKind
from producers.libvirt.event_loop import ensure_event_loop
from producers.libvirt.numbers import Control
from schemas.ids import VmId

KEEPALIVE_SECONDS = 5
KEEPALIVE_COUNT = 3
"""A libvirtd that stands still is given up after seconds x (count + 1) = 20 s."""

_CLOSE_REASONS: Final = {0: "error", 1: "end of stream", 2: "no answer to keepalive", 3: "closed by us"}

# Names, since an older libvirt lacks some: its binding has no such constant, and they are left out.
_EVENTS: Final = {
    "LIFECYCLE": EventKind.LIFECYCLE,
    "REBOOT": EventKind.REBOOT,
    "IO_ERROR_REASON": EventKind.IO_ERROR,
    "AGENT_LIFECYCLE": EventKind.GUEST_AGENT,
    "DEVICE_ADDED": EventKind.HINT,
    "DEVICE_REMOVED": EventKind.HINT,
    "TRAY_CHANGE": EventKind.HINT,
    "DISK_CHANGE": EventKind.HINT,
    "METADATA_CHANGE": EventKind.HINT,
    "BLOCK_JOB_2": EventKind.HINT,
    "PMSUSPEND": EventKind.HINT,
    "PMSUSPEND_DISK": EventKind.HINT,
    "PMWAKEUP": EventKind.HINT,
    "MIGRATION_ITERATION": EventKind.HINT,
    "JOB_COMPLETED": EventKind.HINT,
    "CONTROL_ERROR": EventKind.HINT,
    "MEMORY_DEVICE_SIZE_CHANGE": EventKind.HINT,
    "NIC_MAC_CHANGE": EventKind.HINT,
}


class DomainVanished(Exception):
    """libvirtd does not know this domain (any more)."""


class Connection:
    """Made open, with its callbacks registered; ``lost`` is set once, when it ends for whatever reason.

    ``on_event`` and ``on_lost`` are called in libvirt's event thread and must return at once.
    """

    def __init__(self, uri: str, *, on_event: Callable[[Event], None], on_lost: Callable[[Connection], None]) -> None:
        """Connect; raises SourceUnavailable. May block for as long as libvirtd accepts and does not answer."""
        ensure_event_loop()
        self.lost = threading.Event()
        self.lost_reason = ""
        self._on_event = on_event
        self._on_lost = on_lost
        self._callbacks: list[int] = []
        try:
            self.raw: Any = libvirt.openReadOnly(uri)
        except libvirt.libvirtError as error:
            raise SourceUnavailable(f"{uri}: {_text(error)}") from error
        try:
            self._watch()
        except libvirt.libvirtError as error:
            self.close()
            raise SourceUnavailable(f"{uri}: {_text(error)}") from error

    def _watch(self) -> None:
        self.raw.registerCloseCallback(self._closed, None)
        with _unless_supported():
            self.raw.setKeepAlive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT)
        for name, kind in _EVENTS.items():
            number = getattr(libvirt, f"VIR_DOMAIN_EVENT_ID_{name}", None)
            if number is not None:
                with _unless_supported():
                    self._callbacks.append(self.raw.domainEventRegisterAny(None, number, self._copy, kind))

    def _copy(self, connection: object, domain: Any, *arguments: Any) -> None:
        """Copies, and nothing else: whatever blocks here delays all events, and in the end costs the connection."""
        *values, kind = arguments
        plain = tuple(value for value in values if isinstance(value, int | str | None))
        self._on_event(Event(VmId(bytes(domain.UUID())), kind, plain, time.monotonic_ns()))

    def _closed(self, connection: object, reason: int, opaque: object) -> None:
        self._end(_CLOSE_REASONS.get(reason, f"reason {reason}"))

    def _end(self, reason: str) -> None:
        if not self.lost.is_set():
            self.lost_reason = reason
            self.lost.set()
            self._on_lost(self)

    def ask(self, method: Callable[..., Any], *arguments: object) -> Any:
        """Call a method of the connection or of one of its domains, as ``ask(domain.state)``.

        Raises DomainVanished, or SourceUnavailable when the connection ended (which is noticed here if the event
        thread has not noticed it yet); any other error of libvirt is left as it is.
        """
        try:
            return method(*arguments)
        except libvirt.libvirtError as error:
            if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_INVALID_DOMAIN):
                raise DomainVanished from error
            if self.lost.is_set() or not self._is_alive():
                self._end(_text(error))
                raise SourceUnavailable(_text(error)) from error
            raise

    def try_ask(self, method: Callable[..., Any], *arguments: object) -> Any:
        """As `ask`, but None where libvirt refuses: an unsupported call, a busy domain."""
        try:
            return self.ask(method, *arguments)
        except libvirt.libvirtError:
            return None

    def domain(self, vm_id: VmId) -> Any:
        """The domain of this id; raises as `ask`."""
        return self.ask(self.raw.lookupByUUIDString, str(UUID(bytes=vm_id)))

    def may_enter_monitor(self, domain: Any) -> bool:
        """False while a call into QEMU is stuck, when the next one would be too."""
        control = self.try_ask(domain.controlInfo)
        return control is None or control[0] in (Control.OK, Control.JOB)

    def close(self) -> None:
        """Give the connection back. Blocks while libvirtd stands still; safe to call twice."""
        self.lost.set()
        for callback in self._callbacks:
            with contextlib.suppress(libvirt.libvirtError):
                self.raw.domainEventDeregisterAny(callback)
        self._callbacks.clear()
        with contextlib.suppress(libvirt.libvirtError):
            self.raw.unregisterCloseCallback()
        with contextlib.suppress(libvirt.libvirtError):
            self.raw.close()

    def _is_alive(self) -> bool:
        try:
            return bool(self.raw.isAlive())
        except libvirt.libvirtError:
            return False


@contextlib.contextmanager
def _unless_supported() -> Any:
    """Ignores that a driver lacks what is asked, such as keepalive in a driver within this process."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() not in (libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_INVALID_ARG):
            raise


def _text(error: Any) -> str:
    return str(error.get_error_message() or error)
