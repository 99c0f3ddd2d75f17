"""Reads the tables with SQL of its own, all in one snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

RowMap = dict[str, Any]
"""Column -> value: ids as text, times as microseconds since 1970, jsonb as plain values."""

_AT_ONCE = 5_000
_COLUMNS = """
SELECT column_name AS name, data_type AS type FROM information_schema.columns
WHERE table_schema = current_schema() AND table_name = %s ORDER BY ordinal_position
"""


class Tables(Protocol):
    """Where rows come from; tests have one in memory."""

    def rows(self, table: str) -> Iterator[RowMap]:
        """Every row of a table; nothing for one that does not exist."""


class Database:
    """One read-only snapshot of a database, taken when it is opened; use as a context."""

    def __init__(self, conninfo: str, password: str | None = None) -> None:
        given = psycopg.conninfo.make_conninfo(conninfo, **({} if password is None else {"password": password}))
        self._connection = psycopg.connect(given, row_factory=dict_row)
        self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        self._connection.execute("SELECT 1")

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def rows(self, table: str) -> Iterator[RowMap]:
        """See Tables."""
        columns = self._connection.execute(_COLUMNS, (table,)).fetchall()
        if not columns:
            return
        query = sql.SQL("SELECT {} FROM {}").format(
            sql.SQL(", ").join(_selected(column["name"], column["type"]) for column in columns), sql.Identifier(table)
        )
        with self._connection.cursor(name=f"of_{table}") as cursor:
            cursor.itersize = _AT_ONCE
            cursor.execute(query)
            yield from cursor


def _selected(name: str, kind: str) -> sql.Composable:
    column = sql.Identifier(name)
    if kind == "timestamp with time zone":
        return sql.SQL("(extract(epoch FROM {0}) * 1000000)::int8 AS {0}").format(column)
    if kind == "uuid":
        return sql.SQL("{0}::text AS {0}").format(column)
    return column
