"""The QEMU process of a domain: its name, stable over restarts of agent and libvirtd, and when it started.

libvirt's domain id survives a restart of libvirtd while the domain runs, but is given again afterwards, so the start
time of the process joins it. Where the process can not be seen (another pid namespace, a hidden /proc) the id stands
alone, and two runs that libvirtd was restarted between may bear one name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from schemas.ids import VmId, uuid_text

_START_FIELD = 22
"""Of /proc/<pid>/stat, counted from 1: start time in clock ticks after boot; see proc(5)."""
_STATE_FIELD = 3
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class QemuProcess:
    """A domain's process; ``started_at`` is wall clock, UTC ns, whole seconds."""

    process_id: str
    started_at: int | None = None


def run_directories_of(uri: str, user: int) -> list[Path]:
    """Where the libvirtd at this URI keeps its sockets and process id files, as far as the URI tells."""
    parts = urlsplit(uri)
    socket = parse_qs(parts.query).get("socket")
    if socket:
        return [Path(socket[0]).parent]
    if parts.netloc or not parts.scheme.startswith("qemu"):
        return []
    return [Path("/run/libvirt")] if parts.path == "/system" else [Path(f"/run/user/{user}/libvirt")]


def process_of(
    vm_id: VmId, name: str, domain_id: int, run_directories: Sequence[Path], proc: Path = Path("/proc")
) -> QemuProcess:
    """The process that runs this domain; never raises."""
    for directory in run_directories:
        for folder in (directory / "qemu/run", directory / "qemu"):
            ticks = _start_ticks(folder / f"{name}.pid", vm_id, proc)
            if ticks is not None:
                return QemuProcess(process_id=f"{domain_id}-{ticks}", started_at=_started_at(ticks, proc))
    return QemuProcess(process_id=str(domain_id))


def start_ticks_in(stat: str) -> int | None:
    """Start time of a process from its stat line, whose second field may hold blanks and parentheses."""
    fields = stat.rpartition(")")[2].split()
    at = _START_FIELD - _STATE_FIELD
    return int(fields[at]) if len(fields) > at and fields[at].isdecimal() else None


def boot_seconds_in(stat: str) -> int | None:
    """Wall clock of the boot, in seconds, from /proc/stat."""
    for line in stat.splitlines():
        if line.startswith("btime ") and line[6:].strip().isdecimal():
            return int(line[6:])
    return None


def _start_ticks(pid_file: Path, vm_id: VmId, proc: Path) -> int | None:
    try:
        pid = int(_head(pid_file))
        # A pid file that outlived its process may name a stranger.
        if uuid_text(vm_id) not in _head(proc / str(pid) / "cmdline"):
            return None
        return start_ticks_in(_head(proc / str(pid) / "stat"))
    except (OSError, ValueError):
        return None


def _started_at(ticks: int, proc: Path) -> int | None:
    try:
        boot_seconds = boot_seconds_in(_head(proc / "stat"))
    except OSError:
        return None
    return None if boot_seconds is None else (boot_seconds + ticks // os.sysconf("SC_CLK_TCK")) * 1_000_000_000


def _head(path: Path) -> str:
    with path.open("rb") as stream:
        return stream.read(_MAX_BYTES).decode(errors="replace")
