"""Writes what the parts say, each line behind its part's name."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TextIO

_COLOURS = (36, 32, 35, 34, 33, 37)
"""ANSI foregrounds, given to the parts in turn."""
_SUPERVISOR = "supervisor"


class LineWriter:
    """A `LineSink` on a text stream; called from several threads."""

    def __init__(self, out: TextIO, *, aligned: Sequence[str] = (), painted: bool = False) -> None:
        """`aligned`: parts whose names are padded to one width; `painted`: in colours of their own."""
        self._out = out
        self._width = max(map(len, [*aligned, _SUPERVISOR])) if aligned else 0
        self._colours = {name: _COLOURS[at % len(_COLOURS)] for at, name in enumerate(aligned)} if painted else None
        self._lock = threading.Lock()

    def __call__(self, name: str, line: str) -> None:
        """Write one line."""
        label = name.ljust(self._width)
        if self._colours is not None:
            label = f"\x1b[{self._colours.get(name, 37)}m{label}\x1b[0m"
        with self._lock:
            self._out.write(f"{label} | {line}\n")
            self._out.flush()
