"""From libvirt's event thread to the agent: a bounded queue that never blocks the one who fills it.

A callback that blocks for long costs the connection, so it only copies and enqueues. When the queue is full the events
are lost, which is no harm but must be known: then everything is listed again.
"""

from __future__ import annotations

import threading
from collections import deque

from producers.libvirt.chronicle import Event

MAX_EVENTS = 100_000
"""Some minutes of the worst storm measured, 20 MB."""


class HintQueue:
    """Thread-safe. One thread waits; any number fill."""

    def __init__(self, max_events: int = MAX_EVENTS) -> None:
        self._max_events = max_events
        self._events: deque[Event] = deque()
        self._arrived = threading.Condition()
        self._poked = False
        self._overflowed = False

    def put(self, event: Event) -> None:
        """Called in libvirt's event thread."""
        with self._arrived:
            if len(self._events) >= self._max_events:
                self._overflowed = True
            else:
                self._events.append(event)
            self._arrived.notify_all()

    def poke(self) -> None:
        """Wake the waiter without an event: something else changed."""
        with self._arrived:
            self._poked = True
            self._arrived.notify_all()

    def wait(self, timeout_seconds: float) -> bool:
        """Block until there is something or the time is over; True when there is."""
        with self._arrived:
            return self._arrived.wait_for(
                lambda: bool(self._events) or self._poked or self._overflowed, max(0.0, timeout_seconds)
            )

    def drain(self) -> tuple[list[Event], bool]:
        """All events in order, and whether some were lost."""
        with self._arrived:
            events = list(self._events)
            overflowed = self._overflowed
            self._events.clear()
            self._poked = self._overflowed = False
        return events, overflowed
