"""Programs of the system that a stack needs for a moment, such as Maven, apt or initdb."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from infra.runtime.errors import ConfigError, FatalError
from infra.stack.processes import Account

_TAIL_LINES = 12


def require(program: str, *, install: str) -> str:
    """Return the path of a program, or raise ConfigError with one sentence that says what to install."""
    path = shutil.which(program)
    if path is None:
        raise ConfigError(f"{program} is not installed", advice=f"install {install}, then try again")
    return path


def run(
    command: Sequence[str],
    *,
    doing: str,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    account: Account | None = None,
    on_line: Callable[[str], None] | None = None,
) -> str:
    """Run a command to its end and return its output (both streams); ``on_line`` sees each line as it comes.

    Raises FatalError with the last lines when it fails. ``doing`` is a clause for that message.
    """
    lines: list[str] = []
    with subprocess.Popen(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
        text=True,
        errors="replace",
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    ) as process:
        for line in process.stdout or ():
            lines.append(line.rstrip("\n"))
            if on_line:
                on_line(lines[-1])
    if process.returncode != 0:
        raise FatalError(
            f"{Path(command[0]).name} failed with code {process.returncode} while {doing}: "
            + " | ".join(line for line in lines[-_TAIL_LINES:] if line.strip())
        )
    return "\n".join(lines)
