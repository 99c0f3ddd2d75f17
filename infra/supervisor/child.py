"""One supervised process: started in its own group, its output handed on line by line, ended by deadline."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Callable

from infra.supervisor.part import Part

_PR_SET_PDEATHSIG = 1

LineSink = Callable[[str, str], None]
"""Takes (part name, line without its end). Called from reader threads."""


def _end_with_parent() -> None:
    """In the child: ask the kernel for SIGTERM when the supervisor dies, so that a killed one leaves nothing behind."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class Child:
    """A running part. Must be started from the main thread: the parent-death signal follows the starting thread."""

    def __init__(self, part: Part, lines: LineSink) -> None:
        self.part = part
        self._process = subprocess.Popen(
            part.argv,
            env={**os.environ, **part.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            # Its own group: Ctrl-C reaches the supervisor alone, which stops the parts in order.
            process_group=0,
            preexec_fn=_end_with_parent,
        )
        self._reader = threading.Thread(target=self._read, args=(lines,), name=f"log-{part.name}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def returncode(self) -> int | None:
        """What it ended with (negative: the signal), None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask it to stop; safe on one that has ended."""
        if self._process.poll() is None:
            self._process.terminate()

    def wait(self, seconds: float) -> int | None:
        """Its return code once it has ended, None when it has not by then."""
        try:
            return self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> int:
        """End it at once and return its code."""
        if self._process.poll() is None:
            self._process.kill()
        code = self._process.wait()
        self._reader.join(timeout=2.0)
        return code

    def _read(self, lines: LineSink) -> None:
        output = self._process.stdout
        if output is None:
            return
        with output:
            for line in output:
                lines(self.part.name, line.rstrip("\n"))
