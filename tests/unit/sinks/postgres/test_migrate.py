"""Which migrations are pending, and which databases are refused; the server's part is tested against a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.runtime.errors import ConfigError, DatabaseRefused
from sinks.postgres.columns import Column, Kind
from sinks.postgres.migrate import load, pending
from sinks.postgres.schema import differences

PLACE = "PostgreSQL at nowhere"
KNOWN = load()
ALL = {migration.number: migration.checksum for migration in KNOWN}


def test_shipped_migrations_are_described_and_numbered() -> None:
    assert [migration.number for migration in KNOWN] == list(range(1, len(KNOWN) + 1))
    assert all(migration.description for migration in KNOWN)


def test_everything_is_pending_in_an_empty_database() -> None:
    assert pending({}, KNOWN, PLACE) == list(KNOWN)


def test_nothing_is_pending_in_a_current_one() -> None:
    assert pending(ALL, KNOWN, PLACE) == []


def test_only_the_rest_is_pending() -> None:
    assert [migration.number for migration in pending({1: ALL[1], 2: ALL[2]}, KNOWN, PLACE)] == [3, 4]


def test_a_newer_database_is_refused() -> None:
    with pytest.raises(DatabaseRefused, match="0099"):
        pending({**ALL, 99: "x"}, KNOWN, PLACE)


def test_an_edited_migration_is_refused() -> None:
    with pytest.raises(DatabaseRefused, match="0001 was applied from a file with another content"):
        pending({**ALL, 1: "x"}, KNOWN, PLACE)


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["0001_a.sql", "0003_b.sql"], "without gap"),
        (["0001_a.sql", "0001_b.sql"], "without gap"),
        (["1_a.sql"], "NNNN_name.sql"),
    ],
)
def test_a_folder_out_of_order_is_refused(tmp_path: Path, names: list[str], complaint: str) -> None:
    for name in names:
        (tmp_path / name).write_text("-- does nothing\n")
    with pytest.raises(ConfigError, match=complaint):
        load(tmp_path)


def test_a_migration_without_description_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0001_a.sql").write_text("SELECT 1;\n")
    with pytest.raises(ConfigError, match="begins with"):
        load(tmp_path)


def test_differences_name_table_column_and_type() -> None:
    wanted = {"vm": (Column("vm_id", Kind.UUID), Column("version", Kind.INT8)), "host": (Column("host_id", Kind.UUID),)}
    found = {"vm": {"vm_id": "text", "more": "text"}}
    assert differences(wanted, found) == [
        "column vm.vm_id is text, but must be uuid",
        "column vm.version is missing",
        "table host is missing",
    ]
    assert differences({}, found) == []
