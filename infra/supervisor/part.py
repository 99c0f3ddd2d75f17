"""A part of the line: one process, what it is started with, and what is known of it now."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from infra.runtime.errors import ExitCode


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. No secret stands in `argv`; the environment holds paths to secrets at most."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = {}
    tier: int = 0
    """Start order; stopping goes the other way round, tier by tier, so that what reads drains what was written."""
    http_port: int | None = None
    """Where it answers /livez, /readyz and /metrics."""


class Phase(enum.StrEnum):
    """What the supervisor does about a part."""

    RUNNING = "running"
    WAITING = "waiting"
    """It ended and will be started again when its back-off is over."""
    REFUSED = "refused"
    """It ended with a code that no restart helps: a human must read its last line."""
    STOPPED = "stopped"


class PartState(msgspec.Struct, frozen=True, kw_only=True):
    """A part as the supervisor sees it."""

    name: str
    phase: Phase
    pid: int | None
    restarts: int
    last_exit: int | None
    http_port: int | None


def worth_restarting(returncode: int) -> bool:
    """True unless the part itself said that starting it again is useless; a death by signal always is worth it."""
    try:
        code = ExitCode(returncode)
    except ValueError:
        return True
    # Ending well without being asked is no failure of the part, but the line still needs it.
    return code is ExitCode.OK or code is ExitCode.INTERRUPTED or code.worth_restarting


def describe_exit(returncode: int) -> str:
    """What a return code means, for a log line."""
    if returncode < 0:
        return f"killed by signal {-returncode}"
    try:
        return f"ended with {returncode} ({ExitCode(returncode).name.lower()})"
    except ValueError:
        return f"ended with {returncode}"
