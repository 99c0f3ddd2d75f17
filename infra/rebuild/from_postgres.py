"""What PostgreSQL knows of the fleet: the last state of every VM and host, facets in their canonical form again.

Times come back in whole microseconds, which is what they are; everything else is what was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from infra.rebuild.known import Known
from infra.runtime.errors import FatalError, NeighbourUnreachable
from schemas.change import Exit
from schemas.facets import HOST_FACETS, VM_FACETS, Facet, HostFacet
from schemas.facets.normal import normal_form
from schemas.ids import AgentEpoch, BootId, HostId, MachineId, RunId, VmId
from schemas.status import ExitReason, ExitStatus, Reachability, Status
from sinks.postgres.columns import HOST_FACET_TABLES, RUN_COLUMNS, RUN_PREFIX, VM_FACET_TABLES, Column, FacetTable, Kind
from sinks.postgres.connection import connect, where
from sinks.postgres.settings import Database
from sinks.postgres.sqlstate import describe
from streams.hosts.taking_in import KnownHost
from streams.vms.taking_in import KnownVm

Reader = psycopg.Connection[tuple[Any, ...]]
Row = dict[str, Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FETCH_ROWS = 5_000

_NEWEST_LOG = """
SELECT coalesce(max(last.evidence_log), 0)
FROM (SELECT vm_id, detected_at FROM vm ORDER BY detected_at DESC LIMIT 1000) AS v
CROSS JOIN LATERAL (
    SELECT c.evidence_log FROM vm_change c
    WHERE c.vm_id = v.vm_id AND c.detected_at = v.detected_at
    ORDER BY c.incarnation DESC, c.version DESC LIMIT 1) AS last
"""
"""Of the newest thousand VMs: a generation of host.reports is as old as the topic, so one of them has the highest."""


def read_fleet(database: Database, known: Known) -> None:
    """Add everything that the database knows. Raises NeighbourUnreachable, DatabaseRefused, FatalError."""
    try:
        with connect(database, application_name="deltavisor-rebuild") as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            _read_vms(connection, known)
            _read_hosts(connection, known)
            found = connection.execute(_NEWEST_LOG).fetchone()
            known.log = max(known.log, int(found[0]) if found else 0)
    except psycopg.OperationalError as error:
        raise NeighbourUnreachable(describe(error), where=where(database)) from error
    except psycopg.Error as error:
        raise FatalError(f"the tables can not be read ({describe(error)})", where=where(database)) from error


def _read_vms(connection: Reader, known: Known) -> None:
    facets: dict[UUID, dict[str, bytes]] = {}
    for table in VM_FACET_TABLES.values():
        for subject, value in _facets(connection, table, VM_FACETS[Facet(table.facet)]):
            facets.setdefault(subject, {})[table.facet] = value
    managed = {row["vm_id"]: row["fields"] for row in _rows(connection, "vm_managed")}
    for row in _rows(connection, "vm"):
        own = facets.pop(row["vm_id"], {})
        if row[f"{RUN_PREFIX}status"] is not None:
            own[Facet.RUN.value] = _canonical(VM_FACETS[Facet.RUN], RUN_COLUMNS, row, RUN_PREFIX)
        known.add_vm(
            KnownVm(
                vm_id=VmId(row["vm_id"].bytes),
                incarnation=row["incarnation"],
                version=row["version"],
                status=Status(row["status"]),
                host_id=None if row["host_id"] is None else HostId(row["host_id"].bytes),
                ownership_epoch=row["ownership_epoch"],
                run_id=None if row["run_id"] is None else RunId(row["run_id"].bytes),
                exit=_exit(row),
                observed_at=_nanoseconds(row["observed_at"]),
                detected_at=_nanoseconds(row["detected_at"]),
                facets=own,
                managed=managed.get(row["vm_id"], {}),
            )
        )


def _read_hosts(connection: Reader, known: Known) -> None:
    facets: dict[UUID, dict[str, bytes]] = {}
    for table in HOST_FACET_TABLES.values():
        for subject, value in _facets(connection, table, HOST_FACETS[HostFacet(table.facet)]):
            facets.setdefault(subject, {})[table.facet] = value
    for row in _rows(connection, "host"):
        known.add_host(
            KnownHost(
                host_id=HostId(row["host_id"].bytes),
                machine_id=MachineId(row["machine_id"].bytes),
                boot_id=BootId(row["boot_id"].bytes),
                agent_epoch=AgentEpoch(row["agent_epoch"].bytes),
                incarnation=row["incarnation"],
                version=row["version"],
                reachability=Reachability(row["reachability"]),
                facets=facets.pop(row["host_id"], {}),
            )
        )


def _rows(connection: Reader, table: str) -> Iterator[Row]:
    statement = sql.SQL("SELECT * FROM {}").format(sql.Identifier(table))
    with connection.cursor(f"rebuild_{table}", row_factory=dict_row) as cursor:
        cursor.itersize = _FETCH_ROWS
        yield from cursor.execute(statement)


def _facets(connection: Reader, table: FacetTable, kind: type[msgspec.Struct]) -> Iterator[tuple[UUID, bytes]]:
    for row in _rows(connection, table.name):
        yield row[table.key.name], _canonical(kind, table.fields, row)


def _canonical(kind: type[msgspec.Struct], columns: Sequence[Column], row: Row, prefix: str = "") -> bytes:
    """The canonical map of a facet. A column that is NULL is a field at its default."""
    fields = {}
    for column in columns:
        value = row[column.name]
        if value is not None:
            fields[column.name.removeprefix(prefix)] = _nanoseconds(value) if column.kind is Kind.TIME else value
    try:
        return normal_form(msgspec.convert(fields, kind))[1]
    except msgspec.ValidationError as problem:
        raise FatalError(
            f"a row is no {kind.__name__}: {problem}",
            where=f"column {prefix or kind.__name__.lower()}",
            advice="was it changed by hand? correct or delete the row",
        ) from problem


def _exit(row: Row) -> Exit | None:
    if row["exit_status"] is None or row["exit_reason"] is None:
        return None
    return Exit(
        status=ExitStatus(row["exit_status"]), reason=ExitReason(row["exit_reason"]), message=row["exit_message"]
    )


def _nanoseconds(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND * 1_000
