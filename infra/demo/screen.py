"""The live picture: fleet, last changes, parts. Plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from infra.demo.watcher import Watcher
from infra.supervisor.part import PartState, Phase

_LINE_SECONDS = 5.0


class Screen:
    """Shows one picture after another; use as a context."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._last_line = 0.0

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, phase: str, left_seconds: float, watcher: Watcher, parts: Sequence[PartState]) -> None:
        """Draw the picture as it is now."""
        if self._live is not None:
            self._live.update(_picture(phase, left_seconds, watcher, parts))
            return
        now = time.monotonic()
        if now - self._last_line >= _LINE_SECONDS:
            self._last_line = now
            fleet = ", ".join(f"{count} {status}" for (status, _), count in watcher.counts().most_common(4))
            self._console.print(
                f"{phase} ({left_seconds:.0f} s left): {fleet or 'no VM yet'}; "
                f"{watcher.total} changes, {watcher.per_second():.0f}/s"
            )


def _picture(phase: str, left_seconds: float, watcher: Watcher, parts: Sequence[PartState]) -> RenderableType:
    fleet = Table.grid(padding=(0, 3))
    for (status, availability), count in watcher.counts().most_common():
        doubt = "" if availability == "known" else f" [yellow]{availability}[/yellow]"
        fleet.add_row(f"[bold]{count}[/bold]", f"{status}{doubt}")
    rate = f"[bold]{watcher.per_second():.0f}[/bold] changes/s, {watcher.total} since the start"
    running = Text()
    for part in parts:
        colour = "green" if part.phase is Phase.RUNNING else "red"
        running.append(f"● {part.name} ", style=colour)
    return Group(
        Panel(Group(fleet, rate), title=f"fleet · {phase} · {left_seconds:.0f} s left", border_style="cyan"),
        Panel("\n".join(watcher.recent) or "no change yet", title="last changes", border_style="dim"),
        running,
    )
