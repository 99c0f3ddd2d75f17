"""Progress of long steps: one line each on a terminal or in a log, with the time it took so far."""

from __future__ import annotations

import threading
import time

from rich.console import Console

COUNTDOWN_SECONDS = 2.0


class Progress:
    """Prints what long steps tell; its `report` is an `infra.stack.report.Report`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started_at = time.monotonic()
        self._lock = threading.Lock()

    def report(self, subject: str, doing: str) -> None:
        """Print a step. Safe from several threads."""
        with self._lock:
            passed = time.monotonic() - self._started_at
            self._console.print(f"[dim]{passed:6.1f} s[/dim]  {subject}: {doing}", highlight=False)


class Countdown:
    """How many of so many are done, said at most once in a while, and at the end."""

    def __init__(self, console: Console, total: int, done: str) -> None:
        self._console = console
        self._total = total
        self._done = done
        self._started_at = self._said_at = time.monotonic()

    def left(self, left: int, *, last: bool = False) -> None:
        """So many are left."""
        now = time.monotonic()
        if last or now - self._said_at >= COUNTDOWN_SECONDS:
            self._said_at = now
            passed = now - self._started_at
            self._console.print(f"[dim]{passed:6.1f} s[/dim]  {self._total - left} of {self._total} {self._done}")
