"""libvirt's event loop: one thread for the whole process, started before the first connection.

Events of every connection, keepalives and the notice of a lost connection come through it. The binding's asyncio
loop is not used: it is not safe with calls from several threads.
"""

from __future__ import annotations

import threading
import time

import libvirt

from infra.runtime.log import get_logger

_RETRY_SECONDS = 1.0
"""Between two attempts of a loop that fails at once, so that it does not burn a processor."""

_log = get_logger(__name__)
_started = False
_start_lock = threading.Lock()


def ensure_event_loop() -> None:
    """Start the loop unless it runs; it ends with the process. Must come before the first open."""
    global _started
    with _start_lock:
        if _started:
            return
        # Without a handler libvirt prints every error to stderr, those that are raised and handled too.
        libvirt.registerErrorHandler(_ignore, None)
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=_run, name="libvirt-events", daemon=True).start()
        _started = True


def _run() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError as error:
            _log.error("libvirt_event_loop_failed", error=str(error))
            time.sleep(_RETRY_SECONDS)


def _ignore(context: object, error: object) -> None:
    """What libvirt would print is raised as an exception as well."""
