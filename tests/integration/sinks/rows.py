"""What the tables must hold after a change log: the plain fold of the log, as rows a query returns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from psycopg import sql

from schemas.facets import VM_FACETS, Facet
from schemas.status import Status
from schemas.vm_change import VmChange
from sinks.postgres.columns import FACET_BITS, RUN_PREFIX, VM_FACET_TABLES, Column, Kind

Row = dict[str, Any]
Connection = psycopg.Connection[tuple[Any, ...]]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def at(nanoseconds: int | None) -> datetime | None:
    """A time of ours as a query returns it."""
    return None if nanoseconds is None else _EPOCH + timedelta(microseconds=nanoseconds // 1000)


def signed(number: int) -> int:
    """A digest as its column holds it."""
    return number - (1 << 64) if number >= 1 << 63 else number


def id_of(text: str | None) -> UUID | None:
    """A uuid as a query returns it."""
    return None if text is None else UUID(text)


def without_nul(value: Any) -> Any:
    """The same plain value as PostgreSQL can hold it."""
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, list):
        return [without_nul(item) for item in value]
    if isinstance(value, dict):
        return {without_nul(key): without_nul(item) for key, item in value.items()}
    return value


def table(connection: Connection, name: str, order: Sequence[str]) -> list[Row]:
    """All rows of a table or view, in this order."""
    with connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        by = sql.SQL(", ").join(map(sql.Identifier, order))
        return cursor.execute(sql.SQL("SELECT * FROM {} ORDER BY {}").format(sql.Identifier(name), by)).fetchall()


class Wanted:
    """The fold: rows by table, keyed by VM."""

    def __init__(self, changes: Iterable[VmChange]) -> None:
        self.heads: dict[str, Row] = {}
        self.facets: dict[str, dict[str, Row]] = {name: {} for name in VM_FACET_TABLES}
        self.managed: dict[str, Row] = {}
        self.history: list[Row] = []
        for change in changes:
            self._add(change)

    def _add(self, change: VmChange) -> None:
        self.history.append(history_row(change))
        vm_id = change.vm_id
        run = {name: value for name, value in self.heads.get(vm_id, {}).items() if name.startswith(RUN_PREFIX)}
        if change.version == 1 or change.status is Status.REMOVED:
            run = {}
            for rows in self.facets.values():
                rows.pop(vm_id, None)
        for name, facet in change.facets.items():
            value = None if facet.cleared else msgspec.msgpack.decode(facet.after, type=VM_FACETS[Facet(name)])
            if name == Facet.RUN.value:
                run = run_columns(value)
                continue
            self.facets[name].pop(vm_id, None)
            if value is not None:
                fields = facet_columns(VM_FACET_TABLES[name].fields, value)
                self.facets[name][vm_id] = {"vm_id": UUID(vm_id), "changed_at": at(change.detected_at), **fields}
        if change.managed:
            fields = {**self.managed.get(vm_id, {"fields": {}})["fields"], **change.managed}
            self.managed[vm_id] = {"vm_id": UUID(vm_id), "changed_at": at(change.detected_at), "fields": fields}
        run.pop("run_id", None)
        self.heads[vm_id] = {**dict.fromkeys(run_columns(None)), **run, **head_row(change)}


def facet_columns(columns: Sequence[Column], value: msgspec.Struct | None, prefix: str = "") -> Row:
    """Values of a facet's columns; all None without a facet."""
    row: Row = {}
    for column in columns:
        field = None if value is None else getattr(value, column.name.removeprefix(prefix))
        if column.kind is Kind.TIME:
            field = at(field)
        elif column.kind is Kind.JSON and field is not None:
            field = msgspec.json.decode(msgspec.json.encode(field))
        row[column.name] = without_nul(field)
    return row


def run_columns(value: msgspec.Struct | None) -> Row:
    """Values of the head's columns that hold the run facet."""
    from sinks.postgres.columns import RUN_COLUMNS

    return facet_columns(RUN_COLUMNS, value, RUN_PREFIX)


def head_row(change: VmChange) -> Row:
    """The head's own columns."""
    return {
        "vm_id": UUID(change.vm_id),
        "incarnation": change.incarnation,
        "version": change.version,
        "digest": signed(change.state_digest),
        "cause": change.cause.value,
        "observed_at": at(change.observed_at),
        "detected_at": at(change.detected_at),
        **_state(change),
    }


def history_row(change: VmChange) -> Row:
    """The change's row in the history."""
    evidence = change.evidence
    facets = {
        name: {
            "before": facet.before,
            "after": without_nul(msgspec.msgpack.decode(facet.after)),
            "changed": facet.changed,
        }
        for name, facet in change.facets.items()
    }
    return {
        "vm_id": UUID(change.vm_id),
        "incarnation": change.incarnation,
        "version": change.version,
        "detected_at": at(change.detected_at),
        "observed_at": at(change.observed_at),
        "previous_digest": signed(change.previous_digest),
        "state_digest": signed(change.state_digest),
        "evidence_log": evidence.log,
        "evidence_offset": evidence.offset,
        "evidence_partition": evidence.partition,
        "rules_version": change.rules_version,
        "facet_mask": sum(FACET_BITS[name] for name in change.facets),
        "cause": change.cause.value,
        "evidence_topic": evidence.topic,
        "evidence_host": id_of(evidence.host),
        "evidence_boot": id_of(evidence.boot),
        "evidence_seq": evidence.seq,
        "evidence_tick": evidence.tick,
        "intent_id": change.intent_id,
        "facets": facets,
        "managed": change.managed,
        **_state(change),
    }


def _state(change: VmChange) -> Row:
    belief, end = change.availability, change.exit
    return {
        "status": change.status.value,
        "availability": belief.state.value,
        "availability_reason": belief.reason,
        "availability_reasons": list(belief.reasons),
        "availability_since": at(belief.since),
        "host_id": id_of(change.host_id),
        "ownership_epoch": change.ownership_epoch,
        "run_id": id_of(change.run_id),
        "exit_status": None if end is None else end.status.value,
        "exit_reason": None if end is None else end.reason.value,
        "exit_message": None if end is None else end.message,
    }


def assert_tables_hold(connection: Connection, changes: Sequence[VmChange]) -> None:
    """History is every change once, current rows are the fold, counters agree with the rows."""
    wanted = Wanted(changes)
    by_version = ("vm_id", "incarnation", "version")
    history = table(connection, "vm_change", by_version)
    assert history == sorted(wanted.history, key=lambda row: tuple(row[name] for name in by_version))
    assert table(connection, "vm", ["vm_id"]) == _by_vm(wanted.heads)
    for name, rows in wanted.facets.items():
        assert table(connection, f"vm_{name}", ["vm_id"]) == _by_vm(rows)
    assert table(connection, "vm_managed", ["vm_id"]) == _by_vm(wanted.managed)
    counted = "SELECT status, availability, count(*) FROM vm GROUP BY 1, 2 ORDER BY 1, 2"
    kept = "SELECT status, availability, vms FROM fleet_summary ORDER BY 1, 2"
    assert connection.execute(kept).fetchall() == connection.execute(counted).fetchall()


def _by_vm(rows: dict[str, Row]) -> list[Row]:
    return [rows[vm_id] for vm_id in sorted(rows)]
