"""Keeps one connection to libvirtd open, and says when there is none.

A thread of its own connects and gives back lost connections, because both may block for as long as a libvirtd that
stands still. A refused connection means that nothing is known, never that there are no VMs.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from infra.runtime.backoff import Backoff, Retry
from infra.runtime.log import get_logger
from producers.agent.source import SourceUnavailable
from producers.libvirt.chronicle import Event
from producers.libvirt.connection import Connection
from schemas.facets.host import HostReachability

RECONNECT = Backoff(first_seconds=0.2, cap_seconds=10.0)
"""A restart of libvirtd takes a second; one that stays away is asked six times a minute."""
CONNECT_SECONDS = 15.0
"""A libvirtd that starts with a cold cache takes 5 s to answer."""
_CLOSE_SECONDS = 5.0

_log = get_logger(__name__)


class Link:
    """The connection of one source. ``on_change`` is called after each gain or loss, and must return at once."""

    def __init__(self, uri: str, *, on_event: Callable[[Event], None], on_change: Callable[[], None]) -> None:
        self._uri = uri
        self._on_event = on_event
        self._on_change = on_change
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None
        self._generation = 0
        self._attempts = 0
        self._closing = False
        self._hurry = False
        self._reason = "not connected yet"
        self._since: int | None = None

    def connect(self) -> None:
        """Return when connected; raises SourceUnavailable after the next failed attempt, or when none ends in time.

        The link goes on trying by itself either way; calling this again only waits again.
        """
        with self._changed:
            if self._closing:
                raise SourceUnavailable(f"{self._uri}: closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep, name="libvirt-link", daemon=True)
                self._thread.start()
            attempts = self._attempts
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._connection is not None or self._attempts > attempts, timeout=CONNECT_SECONDS
            )
            if self._connection is None:
                raise SourceUnavailable(self._reason)

    def current(self) -> tuple[Connection, int]:
        """The open connection and its number, which rises with each new one; raises SourceUnavailable."""
        with self._changed:
            if self._connection is None:
                raise SourceUnavailable(self._reason)
            return self._connection, self._generation

    @property
    def generation(self) -> int:
        """How many connections were opened so far."""
        return self._generation

    def reachability(self) -> HostReachability:
        """Whether there is a connection, why not, and since when."""
        with self._changed:
            connected = self._connection is not None
            return HostReachability(
                source_connected=connected, reason=None if connected else self._reason[:1024], since=self._since
            )

    def close(self) -> None:
        """Stop; a connection that can not be given back in time is left to the end of the process."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(_CLOSE_SECONDS)

    def _keep(self) -> None:
        retry = Retry(RECONNECT)
        while (connection := self._open_when_due(retry)) is not None:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or connection.lost.is_set())
                if self._connection is connection:
                    self._connection = None
                    self._reason = f"{self._uri}: connection lost: {connection.lost_reason}"
                    self._since = time.time_ns()
                closing = self._closing
            if not closing:
                _log.warning("libvirt_disconnected", uri=self._uri, reason=connection.lost_reason)
                self._on_change()
            connection.close()

    def _open_when_due(self, retry: Retry) -> Connection | None:
        """A new connection, however long it takes; None when closing."""
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closing or self._hurry, timeout=max(0.0, retry.due_at - time.monotonic())
                )
                if self._closing:
                    return None
                self._hurry = False
            try:
                connection = Connection(self._uri, on_event=self._on_event, on_lost=self._lost)
            except SourceUnavailable as error:
                self._failed(str(error), first=retry.failures == 0)
                retry.failed(time.monotonic(), random.random)
                continue
            retry.succeeded()
            with self._changed:
                self._connection = connection
                self._generation += 1
                self._attempts += 1
                self._since = time.time_ns()
                self._changed.notify_all()
            _log.info("libvirt_connected", uri=self._uri)
            self._on_change()
            return connection

    def _failed(self, reason: str, *, first: bool) -> None:
        with self._changed:
            self._attempts += 1
            if self._generation == 0:
                # Later on, why the connection was lost stays the reason: one outage, one word.
                self._since = time.time_ns() if self._since is None else self._since
                self._reason = reason
            self._changed.notify_all()
        if first:
            _log.warning("libvirt_unreachable", uri=self._uri, reason=reason)
            self._on_change()

    def _lost(self, connection: Connection) -> None:
        with self._changed:
            self._changed.notify_all()
