"""`deltavisor vm`: what is known of virtual machines, now and before, from PostgreSQL."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
import psycopg
import typer
from rich.console import Console
from rich.table import Table

from infra.cli.connect import ConfigFile, Database, Reader, StackName, open_reader, reader_settings
from infra.runtime.errors import ConfigError

app = typer.Typer(
    no_args_is_help=True,
    help="Show, list and look back at virtual machines.\n\n"
    "VM is an id, the beginning of one (8 characters or more), or a name. Reads PostgreSQL; ends with 0, with 1 when "
    "there is no such VM, 64 for a bad setting, 69 when the database does not answer, 76 when it refuses.",
)

JsonFlag = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
VmArgument = Annotated[str, typer.Argument(metavar="VM", help="Id, beginning of an id, or name.")]
Row = dict[str, Any]

_FIND = """
SELECT v.vm_id FROM vm v LEFT JOIN vm_identity i ON i.vm_id = v.vm_id
WHERE v.vm_id::text = %(vm)s OR i.name = %(vm)s
   OR (length(%(vm)s) >= 8 AND v.vm_id >= %(low)s::uuid AND v.vm_id <= %(high)s::uuid)
ORDER BY (v.status = 'removed'), v.vm_id LIMIT 5
"""
_LIST = """
SELECT vm_id, name, status, availability, availability_reason, host_id, host_name, vcpus, memory_bytes, detected_at
FROM vm_overview
WHERE (%(host)s::text IS NULL OR host_id::text LIKE %(host)s || '%%' OR host_name = %(host)s)
  AND (%(status)s::text IS NULL OR status = %(status)s)
  AND (%(availability)s::text IS NULL OR availability = %(availability)s)
  AND (%(status)s::text IS NOT NULL OR status <> 'removed')
ORDER BY name NULLS LAST, vm_id LIMIT %(limit)s
"""
_HISTORY = """
SELECT version, incarnation, detected_at, observed_at, cause, status, availability, availability_reason, host_id,
       exit_reason, facets, evidence_topic, evidence_log, evidence_partition, evidence_offset,
       evidence_host, evidence_seq
FROM vm_change
WHERE vm_id = %(vm)s AND (%(since)s::timestamptz IS NULL OR detected_at >= %(since)s)
ORDER BY detected_at DESC, incarnation DESC, version DESC LIMIT %(limit)s
"""
_FACETS = ("vm_identity", "vm_guest", "vm_console", "vm_devices", "vm_jobs", "vm_numa", "vm_watchdog", "vm_managed")


@app.command("list")
def list_vms(
    host: Annotated[
        str | None, typer.Option("--host", help="Only VMs of this host (id, beginning of it, or name).")
    ] = None,
    status: Annotated[str | None, typer.Option("--status", help="Only VMs in this status.")] = None,
    availability: Annotated[str | None, typer.Option("--availability", help="known, unknown or conflict.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000_000)] = 50,
    json: JsonFlag = False,
    stack: StackName = "default",
    dsn: Database = None,
    config: ConfigFile = None,
) -> None:
    """List VMs by name; removed ones only when asked for by status."""
    with open_reader(reader_settings(stack, dsn=dsn, file=config)) as reader:
        given = {"host": host, "status": status, "availability": availability, "limit": limit + 1}
        rows = reader.execute(_LIST, given).fetchall()
    if json:
        _print_json(rows[:limit])
        return
    table = Table("name", "id", "status", "availability", "host", "vCPUs", "MiB", "since")
    for row in rows[:limit]:
        table.add_row(
            row["name"] or "",
            str(row["vm_id"])[:8],
            _status(row["status"]),
            _believed(row),
            row["host_name"] or _short(row["host_id"]),
            _number(row["vcpus"]),
            _number(row["memory_bytes"], 1 << 20),
            _time(row["detected_at"]),
        )
    console = Console()
    console.print(table)
    if len(rows) > limit:
        console.print(f"only the first {limit}; --limit shows more")


@app.command()
def show(
    vm: VmArgument,
    json: JsonFlag = False,
    stack: StackName = "default",
    dsn: Database = None,
    config: ConfigFile = None,
) -> None:
    """Everything known of one VM now: head, facets, and how sure it is."""
    with open_reader(reader_settings(stack, dsn=dsn, file=config)) as reader:
        vm_id = _find(reader, vm)
        head = reader.execute("SELECT * FROM vm WHERE vm_id = %s", [vm_id]).fetchone() or {}
        facets = {name.removeprefix("vm_"): _facet(reader, name, vm_id) for name in _FACETS}
    whole: Row = {**head, "facets": {name: row for name, row in facets.items() if row is not None}}
    if json:
        _print_json(whole)
        return
    console = Console()
    identity = whole["facets"].get("identity", {})
    console.print(f"[bold]{identity.get('name') or vm_id}[/bold]  {vm_id}")
    console.print(f"{_status(head['status'])}, {_believed(head)} since {_time(head['availability_since'])}")
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in head.items():
        if name not in (
            "vm_id",
            "status",
            "availability",
            "availability_reason",
            "availability_since",
        ) and value not in (None, []):
            table.add_row(name, _plain(value))
    for facet, row in whole["facets"].items():
        for name, value in row.items():
            if value not in (None, [], {}):
                table.add_row(f"{facet}.{name}", _plain(value))
    console.print(table)


@app.command()
def history(
    vm: VmArgument,
    since: Annotated[
        datetime | None, typer.Option("--since", help="Only changes detected since this time (UTC).")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000)] = 30,
    json: JsonFlag = False,
    stack: StackName = "default",
    dsn: Database = None,
    config: ConfigFile = None,
) -> None:
    """Changes of one VM, newest first, each with the evidence it stands on."""
    with open_reader(reader_settings(stack, dsn=dsn, file=config)) as reader:
        vm_id = _find(reader, vm)
        rows = reader.execute(_HISTORY, {"vm": vm_id, "since": since, "limit": limit}).fetchall()
    if json:
        _print_json(rows)
        return
    table = Table("version", "detected (UTC)", "cause", "status", "availability", "host", "changed", "evidence")
    for row in rows:
        changed = "; ".join(f"{name}: {' '.join(facet['changed'])}" for name, facet in sorted(row["facets"].items()))
        ended = f" ({row['exit_reason']})" if row["exit_reason"] else ""
        evidence = (
            f"{row['evidence_topic']}[{row['evidence_partition']}]@{row['evidence_offset']} seq {row['evidence_seq']}"
        )
        table.add_row(
            str(row["version"]),
            _time(row["detected_at"]),
            row["cause"],
            _status(row["status"]) + ended,
            _believed(row),
            _short(row["host_id"]),
            changed,
            evidence,
        )
    Console().print(table)


def _find(reader: Reader, vm: str) -> UUID:
    """The id that the user means; ends with 1 when there is none, raises ConfigError when there are several."""
    low, high = _range(vm)
    found = [row["vm_id"] for row in reader.execute(_FIND, {"vm": vm, "low": low, "high": high}).fetchall()]
    if not found:
        print(f"deltavisor: no VM has the id or name {vm!r}; `deltavisor vm list` shows them", file=sys.stderr)
        raise typer.Exit(1)
    if len(found) > 1 and str(found[0]) != vm:
        raise ConfigError(f"{vm!r} means several VMs: {', '.join(map(str, found))}", advice="give more of the id")
    return UUID(str(found[0]))


def _range(prefix: str) -> tuple[str, str]:
    """Lowest and highest UUID that begin with these characters; an empty range when they can not begin one."""
    digits = prefix.replace("-", "").lower()
    if not digits or len(digits) > 32 or any(digit not in "0123456789abcdef" for digit in digits):
        return "f" * 32, "0" * 32
    return digits.ljust(32, "0"), digits.ljust(32, "f")


def _facet(reader: Reader, table: str, vm_id: UUID) -> Row | None:
    statement = psycopg.sql.SQL("SELECT * FROM {} WHERE vm_id = %s").format(psycopg.sql.Identifier(table))
    row = reader.execute(statement, [vm_id]).fetchone()
    return None if row is None else {name: value for name, value in row.items() if name != "vm_id"}


def _print_json(value: object) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value)).decode() + "\n")


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return _time(value)
    if isinstance(value, dict | list):
        return msgspec.json.encode(value).decode()
    return str(value)


def _status(status: str) -> str:
    colour = {"up": "green", "down": "red", "crashed": "red", "paused": "yellow", "removed": "dim"}.get(status, "cyan")
    return f"[{colour}]{status}[/{colour}]"


def _believed(row: Row) -> str:
    if row["availability"] == "known":
        return "known"
    return f"[yellow]{row['availability']}[/yellow] ({row['availability_reason']})"


def _short(value: UUID | None) -> str:
    return "" if value is None else str(value)[:8]


def _number(value: int | None, unit: int = 1) -> str:
    return "" if value is None else str(value // unit)


def _time(value: datetime) -> str:
    return value.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
