"""`deltavisor up`: servers and all parts of the line, supervised in the foreground."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from infra.cli.connect import StackName
from infra.cli.progress import Progress
from infra.cli.status import PARTS_FILE
from infra.runtime.errors import ConfigError
from infra.stack.layout import StackPaths
from infra.stack.stack import Stack
from infra.supervisor.line import LineOptions, parts_of, write_settings
from infra.supervisor.lines import LineWriter
from infra.supervisor.prepare import prepare
from infra.supervisor.supervisor import Supervisor

SETTINGS_FILE = "line.toml"
LIBVIRT_SOCKETS = (Path("/run/libvirt/libvirt-sock-ro"), Path("/var/run/libvirt/libvirt-sock-ro"))


def command(
    stack: StackName = "default",
    simulate: Annotated[bool, typer.Option("--simulate", help="Add a simulated fleet with life in it.")] = False,
    hosts: Annotated[int, typer.Option("--hosts", min=1, help="Simulated hosts.")] = 20,
    vms: Annotated[int, typer.Option("--vms", min=0, help="Simulated VMs.")] = 6_000,
    rate: Annotated[float, typer.Option("--rate", min=0, help="Simulated happenings a second.")] = 20.0,
    libvirt: Annotated[
        bool | None, typer.Option("--libvirt/--no-libvirt", help="Watch this host's libvirtd (default: if it answers).")
    ] = None,
    keep_servers: Annotated[bool, typer.Option("--keep-servers", help="Leave the servers running at the end.")] = False,
) -> None:
    """Start the servers, topics, schema and every part, and keep them running until Ctrl-C.

    Each part is a process of its own, restarted with back-off when it ends. Ctrl-C stops agents, stages and sink in
    this order, then the servers that this command started. Settings of the parts are in <stack>/line.toml; every part
    can also be started by hand with --config.

    Ends with 0 after Ctrl-C, else with the code of the part that refused to go on (64, 74-77), or what kept
    servers from starting.
    """
    console = Console(stderr=True)
    servers = Stack(stack)
    with ExitStack() as cleanup:
        progress = Progress(console)
        endpoints = servers.up(progress.report)
        if not keep_servers:
            cleanup.callback(_stop_servers, servers, console)
        options = LineOptions(
            simulator=("--hosts", str(hosts), "--vms", str(vms), "--rate", str(rate)) if simulate else None,
            libvirt=() if _watch_libvirt(libvirt) else None,
            console_logs=True,
        )
        prepare(endpoints, options, lambda said: progress.report("line", said))
        root = StackPaths.of(stack).root
        parts = parts_of(write_settings(root / SETTINGS_FILE, endpoints, options), options)
        console.print(f"starting {', '.join(part.name for part in parts)}; Ctrl-C stops them in order")
        states_file = root / PARTS_FILE
        cleanup.callback(states_file.unlink, missing_ok=True)
        lines = LineWriter(sys.stderr, aligned=[part.name for part in parts], painted=console.is_terminal)
        code = Supervisor(parts, lines, states_file=states_file).run(stop_on_signals())
    raise typer.Exit(code)


def stop_on_signals() -> threading.Event:
    """An event that SIGINT and SIGTERM set. Main thread only."""
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        # Not in the handler itself: the main thread may hold the event's lock when the signal comes.
        threading.Thread(target=stop.set, daemon=True).start()

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)
    return stop


def libvirt_answers() -> bool:
    """True where a system libvirtd listens on this host and the binding is there."""
    try:
        import libvirt  # noqa: F401
    except ImportError:
        return False
    return any(path.is_socket() for path in LIBVIRT_SOCKETS)


def _watch_libvirt(wanted: bool | None) -> bool:
    if wanted is None:
        return libvirt_answers()
    if wanted and not libvirt_answers():
        raise ConfigError(
            "no libvirtd listens here, or its Python binding is missing",
            where="flag --libvirt",
            advice="start libvirtd, see docs/libvirt.md, or leave the flag out",
        )
    return wanted


def _stop_servers(servers: Stack, console: Console) -> None:
    console.print("stopping the servers")
    servers.down()
