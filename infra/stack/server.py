"""What every embedded server is to the stack: fetched, prepared, started, asked until it answers, stopped."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from infra.stack.layout import StackPaths
from infra.stack.processes import Account
from infra.stack.report import Report
from infra.stack.services import ServiceName
from infra.stack.settings import StackSettings
from infra.stack.state import StackState

Ports = Mapping[str, int]
"""Port by listener; a server's main listener bears its name."""


class NotReady(Exception):  # it is a state of affairs, asked for until it ends
    """A server does not answer yet. The text says what happened to the request."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How to start a server."""

    command: list[str]
    cwd: Path
    environment: dict[str, str] = field(default_factory=dict)
    account: Account | None = None


@dataclass(frozen=True, kw_only=True)
class Site:
    """The stack a server belongs to. ``state`` is shared, and changed only where a method says so."""

    paths: StackPaths
    settings: StackSettings
    state: StackState


class Server(Protocol):
    """One embedded server of one stack.

    `stack.Stack` calls, in this order and under the stack's lock: `fetch`, `prepare`, then `probe` until it
    returns, then `settle`. All are safe to repeat. Each server is handled by one thread.
    """

    name: ClassVar[ServiceName]
    listeners: ClassVar[tuple[str, ...]]
    """Names of the ports it listens on, the main one first."""
    stop_signal: ClassVar[signal.Signals]
    """What asks it to end in order without waiting for its clients."""

    def fetch(self, report: Report) -> None:
        """Bring what it needs into the cache. Raises ConfigError with what to install, FatalError otherwise."""

    def prepare(self, ports: Ports, report: Report) -> Launch:
        """Write its configuration, make its data directory at the first start, and return how to start it."""

    def probe(self, ports: Ports, timeout_seconds: float) -> None:
        """Make one real request; raise NotReady until it is answered as it should be."""

    def settle(self, ports: Ports) -> None:
        """Do once it answers what later parts rely on, such as creating the database."""

    def discard(self) -> None:
        """Delete what it keeps outside the stack's directory."""
