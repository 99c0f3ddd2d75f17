"""The schemas, the columns derived from them, the migrations and the statements all speak of the same set."""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec
import pytest

from schemas.change import Availability, Evidence, Exit
from schemas.facets import HOST_FACETS, VM_FACETS, Facet
from schemas.host_change import HostChange, HostReachabilityState
from schemas.ownership import Owner, fields_of
from schemas.status import Believed, Reachability, Status
from schemas.vm_change import VmChange
from sinks.postgres import statements
from sinks.postgres.columns import (
    FACET_BITS,
    HOST_CHANGE_COLUMNS,
    HOST_FACET_TABLES,
    HOST_FIELDS,
    RUN_COLUMNS,
    RUN_PREFIX,
    TABLES,
    VM_CHANGE_COLUMNS,
    VM_FACET_TABLES,
    VM_FIELDS,
    Column,
    Kind,
)
from sinks.postgres.heads import host_head_arrays, vm_head_arrays
from sinks.postgres.migrate import load
from sinks.postgres.roles import SINK_PRIVILEGES, VIEWS

SQL = "\n".join(migration.sql for migration in load())
_SHORT = {
    "int8": Kind.INT8,
    "int4": Kind.INT4,
    "int2": Kind.INT2,
    "bool": Kind.BOOL,
    "timestamptz": Kind.TIME,
    "uuid": Kind.UUID,
    "text": Kind.TEXT,
    "text[]": Kind.WORDS,
    "jsonb": Kind.JSON,
}


def created_tables() -> dict[str, dict[str, Kind]]:
    """Columns by table, as the migrations' text has them."""
    tables = {}
    for name, body in re.findall(r"^CREATE TABLE (\w+) \((.*?)^\)", SQL, re.MULTILINE | re.DOTALL):
        lines = re.findall(r"^    ([a-z]\w*) ([a-z0-9\[\]]+)", body, re.MULTILINE)
        tables[name] = {column: _SHORT[kind] for column, kind in lines}
    return tables


def names(columns: tuple[Column, ...]) -> list[str]:
    return [column.name for column in columns]


@pytest.mark.parametrize("table", sorted(TABLES))
def test_migrations_make_the_columns_the_sink_writes(table: str) -> None:
    assert created_tables()[table] == {column.name: column.kind for column in TABLES[table]}


def test_every_created_table_is_known() -> None:
    assert created_tables().keys() == TABLES.keys()
    assert SINK_PRIVILEGES.keys() - {"schema_migration"} == TABLES.keys()


def test_every_view_is_readable() -> None:
    assert set(re.findall(r"^CREATE VIEW (\w+)", SQL, re.MULTILINE)) == set(VIEWS)


@pytest.mark.parametrize("facet", [facet for facet in VM_FACETS if facet is not Facet.RUN])
def test_a_vm_facet_is_a_table_with_its_fields(facet: Facet) -> None:
    assert names(VM_FACET_TABLES[facet.value].fields) == list(fields_of(VM_FACETS[facet]))
    assert list(fields_of(VM_FACETS[facet])) == list(VM_FACETS[facet].__struct_fields__)


def test_the_run_facet_is_in_the_head() -> None:
    assert names(RUN_COLUMNS) == [RUN_PREFIX + name for name in fields_of(VM_FACETS[Facet.RUN])]


def test_host_facets_are_tables_with_their_fields() -> None:
    assert {name: names(table.fields) for name, table in HOST_FACET_TABLES.items()} == {
        facet.value: list(fields_of(kind)) for facet, kind in HOST_FACETS.items()
    }


@pytest.mark.parametrize(("record", "columns"), [(VmChange, VM_FIELDS), (HostChange, HOST_FIELDS)])
def test_derived_fields_have_columns(record: type[msgspec.Struct], columns: dict[str, tuple[Column, ...]]) -> None:
    derived = [name for name, owner in fields_of(record).items() if owner is Owner.DERIVED]
    assert list(columns) == derived


@pytest.mark.parametrize(
    ("part", "prefix", "columns"),
    [
        (Availability, "availability", VM_FIELDS["availability"]),
        (Exit, "exit", VM_FIELDS["exit"]),
        (HostReachabilityState, "reachability", HOST_FIELDS["reachability"]),
    ],
)
def test_nested_fields_have_columns(part: type[msgspec.Struct], prefix: str, columns: tuple[Column, ...]) -> None:
    wanted = {prefix if name == "state" else f"{prefix}_{name}" for name in part.__struct_fields__}
    assert set(names(columns)) == wanted


@pytest.mark.parametrize("columns", [VM_CHANGE_COLUMNS, HOST_CHANGE_COLUMNS])
def test_history_keeps_all_evidence(columns: tuple[Column, ...]) -> None:
    wanted = {f"evidence_{name}" for name in Evidence.__struct_fields__}
    assert {name for name in names(columns) if name.startswith("evidence_")} == wanted


def test_history_keeps_every_field_of_a_change() -> None:
    kept = set(names(VM_CHANGE_COLUMNS))
    for name in VmChange.__struct_fields__:
        if name in ("change_id", "evidence", "exit"):
            continue  # change_id is made of the key; the others are spread over columns
        assert name in kept


@pytest.mark.parametrize(
    ("constraint", "words"),
    [("vm_status_known", Status), ("vm_availability_known", Believed), ("host_reachability_known", Reachability)],
)
def test_checks_know_every_word(constraint: str, words: type[StrEnum]) -> None:
    body = re.search(rf"CONSTRAINT {constraint} CHECK \((.*?)\)\)", SQL, re.DOTALL)
    assert body is not None
    assert set(re.findall(r"'(\w+)'", body[1])) == {word.value for word in words}


def test_facet_bits_are_documented_as_they_are() -> None:
    for facets, table in ((VM_FACETS, "vm_change"), (HOST_FACETS, "host_change")):
        comment = re.search(rf"COMMENT ON COLUMN {table}\.facet_mask IS '(.*?)';", SQL)
        assert comment is not None
        said = {name: int(bit) for bit, name in re.findall(r"(\d+) (\w+)", comment[1])}
        assert said == {facet.value: FACET_BITS[facet.value] for facet in facets}
        assert len(set(said.values())) == len(said)


def test_head_arrays_match_their_source() -> None:
    assert [array.kind for array in vm_head_arrays([])] == [column.kind for column in statements.VM_SOURCE]
    assert [array.kind for array in host_head_arrays([])] == [column.kind for column in statements.HOST_SOURCE]


def test_statements_have_a_placeholder_per_array() -> None:
    assert statements.VM_HEADS.count("%b") == len(statements.VM_SOURCE)
    assert statements.HOST_HEADS.count("%b") == len(statements.HOST_SOURCE)
    for facet, table in {**VM_FACET_TABLES, **HOST_FACET_TABLES}.items():
        assert statements.FACET_UPSERTS[facet].count("%b") == len(table.columns)
        assert statements.FACET_DELETES[facet].count("%b") == 1


def test_only_the_host_of_a_vm_is_indexed() -> None:
    """An index on a column that moves would end heap-only updates."""
    indexed = re.findall(r"^CREATE (?:UNIQUE )?INDEX \w+ ON (\w+) \(([^)]*)\)", SQL, re.MULTILINE)
    histories = {"vm_change", "host_change"}
    assert [(table, columns) for table, columns in indexed if table not in histories] == [("vm", "host_id")]
