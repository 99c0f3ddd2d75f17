"""The database's schema as the sink needs it: bring it there, or say in one sentence what is missing."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

import msgspec
import psycopg

from infra.runtime.errors import DatabaseRefused, NeighbourUnreachable
from sinks.postgres import migrate
from sinks.postgres.columns import TABLES, Column
from sinks.postgres.connection import Connection, connect, where
from sinks.postgres.roles import RoleOutcome, become_migrator, ensure_roles, grant_privileges
from sinks.postgres.settings import Database, RoleSettings
from sinks.postgres.sqlstate import Verdict, describe, verdict_of
from sinks.postgres.statements import ENSURE_PARTITIONS

DAYS_AT_MIGRATION = 7
"""Partitions made ahead by a migration; the sink makes more as it meets new days."""

_COLUMNS = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'public' AND c.relname = ANY (%s) AND a.attnum > 0 AND NOT a.attisdropped
"""


class Migrated(msgspec.Struct, frozen=True, kw_only=True):
    """What `migrate_database` did."""

    applied: tuple[migrate.Migration, ...]
    roles: RoleOutcome
    partitions: int


def migrate_database(database: Database, roles: RoleSettings, *, today: date | None = None) -> Migrated:
    """Bring the schema up to date: roles, migrations, privileges, partitions ahead. Safe to repeat and at once.

    Raises NeighbourUnreachable, DatabaseRefused.
    """
    place = where(database)
    today = today or datetime.now(UTC).date()
    with connect(database, application_name="deltavisor-migrate") as connection:
        try:
            with migrate.alone(connection):
                outcome = ensure_roles(connection, roles)
                become_migrator(connection, roles)
                applied = migrate.apply(connection, place)
                grant_privileges(connection, roles, place)
                days = (today - timedelta(days=1), today + timedelta(days=DAYS_AT_MIGRATION))
                row = connection.execute(ENSURE_PARTITIONS, days).fetchone()
        except psycopg.Error as error:
            raise _refused(error, place, "migrate as the owner of the database or as a superuser") from error
    return Migrated(applied=tuple(applied), roles=outcome, partitions=0 if row is None else row[0])


def check_schema(connection: Connection, place: str) -> None:
    """Raise DatabaseRefused unless every migration is applied and every column is there with its type."""
    try:
        todo = migrate.pending(migrate.applied_in(connection), migrate.load(), place)
        if todo:
            raise DatabaseRefused(
                f"{len(todo)} migrations are not applied, the first is {todo[0].number:04d} ({todo[0].description})",
                where=place,
                advice="run `deltavisor db migrate`",
            )
        rows = connection.execute(_COLUMNS, (list(TABLES),)).fetchall()
    except psycopg.Error as error:
        raise _refused(error, place, "run `deltavisor db migrate`") from error
    found: dict[str, dict[str, str]] = {}
    for table, column, kind in rows:
        found.setdefault(table, {})[column] = kind
    if problems := differences(TABLES, found):
        raise DatabaseRefused(
            "; ".join(problems), where=place, advice="put back what was changed by hand, or use another database"
        )


def differences(wanted: Mapping[str, tuple[Column, ...]], found: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What the found tables (table -> column -> type) lack; columns beyond the wanted ones do not matter."""
    problems = []
    for table, columns in wanted.items():
        if table not in found:
            problems.append(f"table {table} is missing")
            continue
        for column in columns:
            kind = found[table].get(column.name)
            if kind is None:
                problems.append(f"column {table}.{column.name} is missing")
            elif kind != column.kind.value:
                problems.append(f"column {table}.{column.name} is {kind}, but must be {column.kind.value}")
    return problems


def _refused(error: psycopg.Error, place: str, advice: str) -> DatabaseRefused | NeighbourUnreachable:
    if verdict_of(error) is Verdict.AGAIN:
        return NeighbourUnreachable(describe(error), where=place)
    return DatabaseRefused(describe(error), where=place, advice=advice)
