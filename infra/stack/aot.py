"""Java's ahead-of-time cache for the broker: classes as they were after an earlier start, mapped instead of loaded.

Measured on two cores: first answer after 1.5 s instead of 3.5 s, with half the CPU. The cache holds for one
Java and one class path; with any other, Java ignores it and starts the slow way.
Source: JEP 483 and JEP 514.
"""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

from infra.stack.ports import choose
from infra.stack.processes import MARKER, is_alive, marked, spawn, stop
from infra.stack.report import silent
from infra.stack.server import NotReady, Server

REHEARSAL = "rehearsal-"
"""Beginning of the names of scratch directories in the cache."""

_START_SECONDS = 60.0
_WRITE_SECONDS = 180.0
"""After the broker has ended, Java starts once more to write the cache: 6 s on two idle cores."""
_PROBE_SECONDS = 1.0


def archive(jars: Path, home: Path) -> Path:
    """Return the path of the cache for these jars and this Java. An empty file there: it could not be made."""
    release = dict(line.split("=", 1) for line in (home / "release").read_text().splitlines() if "=" in line)
    version = release.get("JAVA_VERSION", "unknown").strip('"')
    return jars.with_name(f"{jars.name}-java-{version}.aot")


def options(jars: Path, home: Path) -> list[str]:
    """Return the options that make Java use the cache, none where there is none."""
    path = archive(jars, home)
    return [f"-XX:AOTCache={path}"] if path.is_file() and path.stat().st_size else []


def rehearse(server: Server, scratch: Path, target: Path) -> bool:
    """Start a broker in ``scratch`` once, end it, and keep at ``target`` what Java learned; True when it did.

    Failing is harmless and not tried again: every start is then slower, nothing else.
    """
    taken: set[int] = set()
    ports = {}
    for listener in server.listeners:
        ports[listener] = choose(None, taken)
        taken.add(ports[listener])
    launch = server.prepare(ports, silent)
    fresh = scratch / "broker.aot"
    java, *rest = launch.command
    identity = spawn(
        [java, f"-XX:AOTCacheOutput={fresh}", *rest],
        cwd=launch.cwd,
        log=scratch / "rehearsal.log",
        environment={**launch.environment, MARKER: _marker(scratch.parent)},
    )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while is_alive(identity) and time.monotonic() < deadline:
            try:
                server.probe(ports, _PROBE_SECONDS)
                break
            except NotReady:
                continue
    finally:
        stop(identity, first=signal.SIGTERM, patience_seconds=_WRITE_SECONDS)
    fresh.touch()
    fresh.replace(target)
    return target.stat().st_size > 0


def remove_leftovers(cache: Path) -> None:
    """End and delete what a killed rehearsal left in the cache. Call under the lock of the jars."""
    for orphan in marked(_marker(cache)):
        stop(orphan, first=signal.SIGKILL, patience_seconds=_START_SECONDS)
    for scratch in cache.glob(f"{REHEARSAL}*"):
        shutil.rmtree(scratch)


def _marker(cache: Path) -> str:
    return f"{cache}:rehearsal"
