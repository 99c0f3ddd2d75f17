"""`deltavisor status`: one screen about servers, parts and fleet, with an exit code for scripts."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import msgspec
import typer
import urllib3
from rich.console import Console
from rich.table import Table

from infra.cli.connect import StackName, open_reader, reader_settings
from infra.runtime.errors import DeltavisorError
from infra.stack.layout import StackPaths
from infra.stack.stack import Stack
from infra.supervisor.part import PartState, Phase

PARTS_FILE = "parts.json"
"""Written by `deltavisor up` into the stack's directory."""


def command(
    stack: StackName = "default",
    json: Annotated[bool, typer.Option("--json", help="JSON instead of a screen.")] = False,
) -> None:
    """Say how servers, parts and fleet are.

    Ends with 0 when every server and part answers, 1 when one does not or nothing runs.
    """
    servers = [msgspec.to_builtins(server) for server in Stack(stack).status()]
    parts = [_with_health(part) for part in _parts(stack)]
    fleet = _fleet(stack)
    well = (
        bool(servers)
        and all(
            server["state"] in ("running", "external")
            for server in servers
            if server["service"] in ("kafka", "postgres")
        )
        and all(part["ready"] for part in parts)
    )
    if json:
        whole = {"ok": well, "servers": servers, "parts": parts, "fleet": fleet}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(whole)).decode() + "\n")
    else:
        _print(servers, parts, fleet)
    raise typer.Exit(0 if well else 1)


def _parts(stack: str) -> list[PartState]:
    path = StackPaths.of(stack).root / PARTS_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[PartState])
    except FileNotFoundError:
        return []


def _with_health(part: PartState) -> dict[str, Any]:
    ready, reason = False, part.phase.value
    if part.phase is Phase.RUNNING and part.http_port is not None:
        try:
            answer = urllib3.request("GET", f"http://127.0.0.1:{part.http_port}/readyz", timeout=2.0, retries=False)
            ready = answer.status == 200
            reason = "ready" if ready else answer.data.decode("utf-8", "replace").strip()[:200]
        except urllib3.exceptions.HTTPError:
            reason = "does not answer"
    return {**msgspec.to_builtins(part), "ready": ready, "health": reason}


def _fleet(stack: str) -> dict[str, Any]:
    """Counts from the fleet counters; says why where the database can not be asked."""
    try:
        with open_reader(reader_settings(stack)) as reader:
            rows = reader.execute("SELECT status, availability, vms FROM fleet_summary ORDER BY vms DESC").fetchall()
            hosts = reader.execute("SELECT reachability, count(*) AS n FROM host GROUP BY reachability").fetchall()
    except DeltavisorError as error:
        return {"unknown": str(error)}
    return {"vms": rows, "hosts": {row["reachability"]: row["n"] for row in hosts}}


def _print(servers: list[dict[str, Any]], parts: list[dict[str, Any]], fleet: dict[str, Any]) -> None:
    console = Console()
    table = Table("server", "state", "pid", "port", "CPU s", "MiB")
    for server in servers:
        table.add_row(
            server["service"],
            server["state"],
            str(server["pid"] or ""),
            str(server["port"] or ""),
            "" if server["cpu_seconds"] is None else f"{server['cpu_seconds']:.1f}",
            "" if server["rss_bytes"] is None else str(server["rss_bytes"] >> 20),
        )
    console.print(table)
    if parts:
        table = Table("part", "phase", "health", "pid", "restarts", "http")
        for part in parts:
            health = "[green]ready[/green]" if part["ready"] else f"[red]{part['health']}[/red]"
            port = str(part["http_port"] or "")
            table.add_row(part["name"], part["phase"], health, str(part["pid"] or ""), str(part["restarts"]), port)
        console.print(table)
    else:
        console.print("no parts run here; `deltavisor up` starts them")
    if "unknown" in fleet:
        console.print(f"fleet: not known, {fleet['unknown']}")
        return
    vms = ", ".join(f"{row['vms']} {row['status']}/{row['availability']}" for row in fleet["vms"]) or "no VMs"
    hosts = ", ".join(f"{count} {state}" for state, count in fleet["hosts"].items()) or "no hosts"
    console.print(f"fleet: {vms}\nhosts: {hosts}")
