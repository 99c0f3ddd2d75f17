"""`deltavisor stack`: the embedded servers, from the command line."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from infra.cli.progress import Progress
from infra.runtime.errors import ExitCode
from infra.stack.endpoints import Endpoints
from infra.stack.services import ServiceName
from infra.stack.settings import StackSettings
from infra.stack.stack import Stack
from infra.stack.status import ServiceState, ServiceStatus

app = typer.Typer(
    no_args_is_help=True,
    help="Kafka, PostgreSQL, VictoriaMetrics and Prometheus on this machine: no root, no system service, "
    "loopback only, everything below .stack/ (or DELTAVISOR_STACK_DIR).",
)

Name = Annotated[str, typer.Option("--name", "-n", help="Which stack: several can run side by side.")]
SettingsFile = Annotated[
    Path | None, typer.Option("--settings", metavar="FILE", help="TOML file with a table \\[stack].")
]
Services = Annotated[
    list[ServiceName] | None,
    typer.Option("--service", "-s", help="Only this one besides Kafka and PostgreSQL; may be repeated."),
]


@app.command()
def up(
    name: Name = "default",
    service: Services = None,
    fetch_only: Annotated[bool, typer.Option("--fetch-only", help="Fill the cache, start nothing.")] = False,
    settings: SettingsFile = None,
) -> None:
    """Start the servers and return once each has answered.

    The first start fetches what is needed (jars by Maven, Debian packages without installing them); a later one
    takes seconds. What runs already is left alone, what crashed is started again. Servers of your own
    (DELTAVISOR_STACK__KAFKA_BOOTSTRAP, …__POSTGRES_DSN, …__VICTORIAMETRICS_URL, …__PROMETHEUS_URL) are checked
    instead of started. VictoriaMetrics and Prometheus are left out where they cannot be had, unless named.
    """
    stack = _stack(name, settings)
    begun = time.monotonic()
    report = Progress(Console(stderr=True)).report
    if fetch_only:
        stack.fetch(report, service)
        return
    endpoints = stack.up(report, service)
    print(f"up in {time.monotonic() - begun:.1f} s")
    _print_endpoints(endpoints)


@app.command()
def down(name: Name = "default") -> None:
    """Stop the servers; data, ports and passwords stay. Servers of your own are not touched."""
    _stack(name, None).down()


@app.command()
def status(
    name: Name = "default",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    settings: SettingsFile = None,
) -> None:
    """Say how each server is, asking it. Exit code 69 when one that should run does not answer."""
    stack = _stack(name, settings)
    services = stack.status()
    if json:
        print(msgspec.json.encode({"name": name, "services": services}).decode())
    else:
        Console().print(_status_table(services))
    if any(one.state in (ServiceState.CRASHED, ServiceState.UNRESPONSIVE) for one in services):
        raise typer.Exit(ExitCode.UNREACHABLE)


@app.command()
def logs(
    service: Annotated[ServiceName, typer.Argument(help="Whose log.")],
    name: Name = "default",
    lines: Annotated[int, typer.Option("--lines", "-l", min=1, help="How many of the last lines.")] = 50,
) -> None:
    """Print the end of a server's log."""
    for line in _stack(name, None).logs(service, lines):
        print(line)


@app.command()
def reset(
    name: Name = "default",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Stop the servers and delete all their data, logs and passwords. The cache stays."""
    if not yes:
        typer.confirm(f"Delete everything the stack {name!r} holds?", abort=True)
    _stack(name, None).reset()


def _stack(name: str, settings: Path | None) -> Stack:
    return Stack(name, settings=StackSettings.load(settings, os.environ))


def _print_endpoints(endpoints: Endpoints) -> None:
    table = Table.grid(padding=(0, 2))
    for service in ServiceName:
        table.add_row(service, getattr(endpoints, service) or "not running")
    table.add_row("passwords", str(endpoints.secrets_dir))
    Console(soft_wrap=True).print(table)


def _status_table(services: list[ServiceStatus]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("service", "state"):
        table.add_column(heading)
    for heading in ("pid", "port", "cpu s", "memory MiB"):
        table.add_column(heading, justify="right")
    for one in services:
        table.add_row(
            one.service,
            one.state,
            *("" if value is None else str(value) for value in (one.pid, one.port)),
            "" if one.cpu_seconds is None else f"{one.cpu_seconds:.1f}",
            "" if one.rss_bytes is None else f"{one.rss_bytes / 2**20:.0f}",
        )
    return table
