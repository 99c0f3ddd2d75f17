"""Bringing one server of a stack up: recognise what an earlier run left, start, wait for its first answer."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import msgspec

from infra.runtime.errors import FatalError, NeighbourUnreachable
from infra.stack import ports as port_choice
from infra.stack.files import read_json
from infra.stack.layout import StackPaths
from infra.stack.processes import MARKER, ProcessIdentity, is_alive, marked, spawn, stop, working_in
from infra.stack.report import Report
from infra.stack.server import NotReady, Server, Site
from infra.stack.services import ServiceName
from infra.stack.state import write_state

STOP_PATIENCE_SECONDS = 30.0
"""How long a server may take to end in order: Kafka and PostgreSQL write what they hold first."""

_ATTEMPTS = 3
_PROBE_SECONDS = 1.0
_PROBE_PAUSE_SECONDS = 0.05
_RUNNING_PATIENCE_SECONDS = 10.0
_LEFTOVER_PATIENCE_SECONDS = 10.0
_LOG_LIMIT_BYTES = 10 * 1024 * 1024
_TAIL_LINES = 8
_TAIL_BYTES = 64 * 1024


class _Died(Exception):
    """The server ended before it answered."""


class Starter:
    """Brings the servers of one stack up, one thread each, under the stack's lock.

    What it learns goes into the site's state, written before every step that a crash would make us forget.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._writing = threading.Lock()
        self._cancelled = threading.Event()
        self._log_begins: dict[ServiceName, int] = {}

    def cancel(self) -> None:
        """Make every waiting thread give up soon. Servers already started stay, and stay remembered."""
        self._cancelled.set()

    def bring_up(self, server: Server, report: Report) -> None:
        """Return once the server answers: at once where it already runs, else started, for which see `Server`.

        Raises ConfigError when something must be installed first, FatalError with the end of its log when it
        does not start, and NeighbourUnreachable when it starts but does not answer in time.
        """
        if self._answers_already(server, report):
            report(server.name, "runs already")
            return
        self._remove_leftovers(server)
        server.fetch(report)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._start(server, report)
            except _Died as error:
                if attempt < _ATTEMPTS and self._a_port_was_taken(server):
                    report(server.name, "its port was taken, choosing another")
                    continue
                raise FatalError(
                    f"{server.name} ended before it answered: {self._log_tail(server.name)}",
                    where=str(self._site.paths.log(server.name)),
                    advice="read the log; `deltavisor stack reset` starts over without its data",
                ) from error
            break
        server.settle(self._ports(server))
        report(server.name, "ready")

    def _answers_already(self, server: Server, report: Report) -> bool:
        identity = self._site.state.processes.get(server.name)
        if identity is None or not is_alive(identity):
            return False
        try:
            self._wait_until_ready(server, identity, _RUNNING_PATIENCE_SECONDS)
        except (_Died, NeighbourUnreachable):
            report(server.name, "does not answer, starting it again")
            stop(identity, first=server.stop_signal, patience_seconds=STOP_PATIENCE_SECONDS)
            return False
        return True

    def _remove_leftovers(self, server: Server) -> None:
        """End what an earlier, crashed run started, and wait for children that outlive their parent a moment."""
        for orphan in marked(marker_of(self._site.paths, server.name)):
            stop(orphan, first=server.stop_signal, patience_seconds=STOP_PATIENCE_SECONDS)
        place = self._site.state.places.get(server.name, self._site.paths.home(server.name))
        deadline = time.monotonic() + _LEFTOVER_PATIENCE_SECONDS
        while working_in(place / "data") and time.monotonic() < deadline:
            self._go_on_unless_cancelled(_PROBE_PAUSE_SECONDS)

    def _start(self, server: Server, report: Report) -> None:
        self._go_on_unless_cancelled(0)
        ports = self._choose_ports(server)
        launch = server.prepare(ports, report)
        report(server.name, "starting")
        paths = self._site.paths
        self._log_begins[server.name] = rotate(paths.log(server.name))
        identity = spawn(
            launch.command,
            cwd=launch.cwd,
            log=paths.log(server.name),
            environment={**launch.environment, MARKER: marker_of(paths, server.name)},
            account=launch.account,
        )
        with self._writing:
            self._site.state.processes[server.name] = identity
            write_state(paths.state, self._site.state)
        report(server.name, "waiting for its first answer")
        self._wait_until_ready(server, identity, self._site.settings.start_timeout_seconds)

    def _wait_until_ready(self, server: Server, identity: ProcessIdentity, patience_seconds: float) -> None:
        deadline = time.monotonic() + patience_seconds
        ports = self._ports(server)
        while True:
            try:
                server.probe(ports, _PROBE_SECONDS)
                if is_alive(identity):
                    return
                reason = "it ended"
            except NotReady as error:
                reason = str(error)
            if not is_alive(identity):
                raise _Died(reason)
            if time.monotonic() > deadline:
                raise NeighbourUnreachable(
                    f"no answer within {patience_seconds:.0f} s of its start ({reason})",
                    where=f"{server.name} at {port_choice.LOOPBACK}:{ports[server.name]}",
                    advice=f"read {self._site.paths.log(server.name)}, or raise stack.start_timeout_seconds",
                )
            self._go_on_unless_cancelled(_PROBE_PAUSE_SECONDS)

    def _go_on_unless_cancelled(self, after_seconds: float) -> None:
        if self._cancelled.wait(after_seconds):
            raise FatalError("given up waiting for the servers", advice="`deltavisor stack down` ends those started")

    def _choose_ports(self, server: Server) -> dict[str, int]:
        with self._writing:
            remembered = self._site.state.ports
            taken = promised_elsewhere(self._site.paths) | set(remembered.values())
            for listener in server.listeners:
                remembered[listener] = port_choice.choose(remembered.get(listener), taken)
                taken.add(remembered[listener])
            write_state(self._site.paths.state, self._site.state)
        return self._ports(server)

    def _ports(self, server: Server) -> dict[str, int]:
        return {listener: self._site.state.ports[listener] for listener in server.listeners}

    def _a_port_was_taken(self, server: Server) -> bool:
        return not all(port_choice.is_free(port) for port in self._ports(server).values())

    def _log_tail(self, service: ServiceName) -> str:
        lines = tail(self._site.paths.log(service), _TAIL_LINES, begin=self._log_begins[service])
        return " | ".join(lines) or "it wrote nothing"


def marker_of(paths: StackPaths, service: ServiceName) -> str:
    """Return what marks the processes of this service of this stack, see `processes.MARKER`."""
    return f"{paths.root}:{service}"


def promised_elsewhere(paths: StackPaths) -> set[int]:
    """Return the ports that the other stacks beside this one remember, running or not."""
    promised: set[int] = set()
    for state in paths.base.glob("*/stack.json"):
        if state == paths.state:
            continue
        try:
            ports = read_json(state, _PortsOfAnother).ports
        except (OSError, msgspec.DecodeError):
            # A neighbour being reset or damaged: its ports are then judged by the kernel alone.
            continue
        promised.update(ports.values())
    return promised


class _PortsOfAnother(msgspec.Struct):
    ports: dict[str, int]


def rotate(log: Path) -> int:
    """Set a log that has grown large aside as ``<log>.1``, and return at which byte the next run's part begins."""
    log.parent.mkdir(parents=True, exist_ok=True)
    size = log.stat().st_size if log.exists() else 0
    if size <= _LOG_LIMIT_BYTES:
        return size
    log.replace(log.with_name(f"{log.name}.1"))
    return 0


def tail(log: Path, lines: int, *, begin: int = 0) -> list[str]:
    """Return the last lines of a log after byte ``begin``, at most 64 KiB of them; empty when there is none."""
    try:
        with log.open("rb") as stream:
            end = stream.seek(0, 2)
            stream.seek(max(begin, end - _TAIL_BYTES))
            content = stream.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return content.splitlines()[-lines:] if lines > 0 else []
