"""Processes that outlive us: started in their own session, recognised later, ended for certain.

A pid alone proves nothing: the process may have died and its number gone to a stranger. A process is ours
when pid, start time (in ticks since boot) and boot agree with what was written down at its start.
Source: proc_pid_stat(5), fields 3, 14, 15, 22 and 24.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

PROC = Path("/proc")
MARKER = "DELTAVISOR_STACK_SERVICE"
"""Environment variable of every server we start: ``<stack directory>:<service>``. It finds what was started
in the instant before its identity could be written down."""

_children: dict[int, subprocess.Popen[bytes]] = {}
"""Servers started by this very process: they must be reaped here, else they stay as zombies."""


class ProcessIdentity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What tells one process from every other that had or will have its pid."""

    pid: int
    start_ticks: int
    boot: str


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a server has taken so far: the process, its threads and its descendants, ended ones included.

    Memory shared with a descendant is counted once.
    """

    cpu_seconds: float
    rss_bytes: int


@dataclass(frozen=True, kw_only=True)
class Account:
    """The user a server runs as, when it is not ours."""

    uid: int
    gid: int


def spawn(
    command: Sequence[str],
    *,
    cwd: Path,
    log: Path,
    environment: Mapping[str, str],
    account: Account | None = None,
) -> ProcessIdentity:
    """Start a server in a session of its own, output appended to ``log``, and return who it is.

    The environment is what is given and a PATH, so that nothing of the caller's (proxies, tokens, locale)
    leaks into a server.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ.get("PATH", os.defpath), **environment},
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    _children[process.pid] = process
    identity = identify(process.pid)
    # A child not yet reaped keeps its /proc entry even when it died at once.
    return identity or ProcessIdentity(pid=process.pid, start_ticks=0, boot=boot_id())


def boot_id(proc: Path = PROC) -> str:
    """Return the id of this boot: start ticks count from it."""
    return (proc / "sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int, proc: Path = PROC) -> ProcessIdentity | None:
    """Return who has this pid now, None when nobody lives under it (a zombie does not)."""
    fields = _stat(pid, proc)
    if fields is None or fields[0] in "ZX":
        return None
    return ProcessIdentity(pid=pid, start_ticks=int(fields[19]), boot=boot_id(proc))


def is_alive(identity: ProcessIdentity, proc: Path = PROC) -> bool:
    """True when exactly this process still runs."""
    _reap(identity.pid)
    return identify(identity.pid, proc) == identity


def usage(identity: ProcessIdentity, proc: Path = PROC) -> Usage | None:
    """Return what the server has taken, None when it is gone."""
    if not is_alive(identity, proc):
        return None
    ticks = pages = 0
    for pid in _family(identity.pid, proc):
        if (fields := _stat(pid, proc)) is None:
            continue
        ticks += sum(int(field) for field in fields[11:15])
        pages += int(fields[21]) - (0 if pid == identity.pid else _shared_pages(pid, proc))
    return Usage(
        cpu_seconds=ticks / os.sysconf("SC_CLK_TCK"),
        rss_bytes=max(0, pages) * os.sysconf("SC_PAGE_SIZE"),
    )


def stop(identity: ProcessIdentity, *, first: signal.Signals, patience_seconds: float) -> bool:
    """End the process and return once it is gone: True when ``first`` sufficed, False when it took SIGKILL.

    Does nothing to a pid that has become somebody else's. Safe to repeat. The descriptor pins the process,
    so that no signal can reach a successor of its pid.
    """
    with contextlib.ExitStack() as cleanup:
        try:
            descriptor = os.pidfd_open(identity.pid)
        except ProcessLookupError:
            return True
        cleanup.callback(os.close, descriptor)
        if not is_alive(identity):
            return True
        _signal(descriptor, first)
        sufficed = _gone(descriptor, patience_seconds)
        if not sufficed:
            _signal(descriptor, signal.SIGKILL)
            _gone(descriptor, patience_seconds)
        _reap(identity.pid)
        return sufficed


def marked(marker: str, proc: Path = PROC) -> list[ProcessIdentity]:
    """Return every process started with this marker, whether or not anybody remembers it."""
    wanted = f"{MARKER}={marker}".encode()
    found = []
    for pid in _pids(proc):
        try:
            environment = (proc / str(pid) / "environ").read_bytes()
        except OSError:
            continue
        if wanted in environment.split(b"\0") and (identity := identify(pid, proc)):
            found.append(identity)
    return found


def working_in(directory: Path, proc: Path = PROC) -> list[int]:
    """Return the pids whose working directory is this one (for waiting only: they need not be ours)."""
    found, wanted = [], directory.resolve()
    for pid in _pids(proc):
        with contextlib.suppress(OSError):
            if (proc / str(pid) / "cwd").readlink() == wanted:
                found.append(pid)
    return found


def _pids(proc: Path) -> Iterator[int]:
    return (int(entry.name) for entry in proc.iterdir() if entry.name.isdecimal())


def _family(root: int, proc: Path) -> list[int]:
    """The process and all its descendants."""
    children: dict[int, list[int]] = {}
    for pid in _pids(proc):
        if (fields := _stat(pid, proc)) is not None:
            children.setdefault(int(fields[1]), []).append(pid)
    family = [root]
    for pid in family:
        family.extend(children.get(pid, ()))
    return family


def _shared_pages(pid: int, proc: Path) -> int:
    try:
        return int((proc / str(pid) / "statm").read_text().split()[2])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _stat(pid: int, proc: Path) -> list[str] | None:
    """Fields of proc_pid_stat(5) from the third on; the second may hold blanks and parentheses."""
    try:
        return (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _signal(descriptor: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, number)


def _gone(descriptor: int, timeout_seconds: float) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(timeout_seconds * 1000))


def _reap(pid: int) -> None:
    if (child := _children.get(pid)) is not None and child.poll() is not None:
        _children.pop(pid, None)
