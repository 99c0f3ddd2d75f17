"""Progress of long steps: one line each on a terminal or in a log, with the time it took so far."""

from __future__ import annotations

import threading
import time

from rich.console import Console


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
