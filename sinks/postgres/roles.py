"""Roles and what each may do. The list of privileges is the policy; it is granted again after every migration.

The sink writes rows and deletes facet rows, and can change no table: partitions it gets from `ensure_partitions()`
alone. The reader reads. The migrator owns everything.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgspec
import psycopg
from psycopg import sql

from infra.runtime.errors import DatabaseRefused
from infra.runtime.settings import Secret
from sinks.postgres.columns import HOST_FACET_TABLES, VM_FACET_TABLES
from sinks.postgres.connection import Connection
from sinks.postgres.settings import RoleSettings
from sinks.postgres.sqlstate import Verdict, describe, verdict_of

_FACETS = (*VM_FACET_TABLES.values(), *HOST_FACET_TABLES.values())

SINK_PRIVILEGES: dict[str, tuple[str, ...]] = {
    "vm": ("SELECT", "INSERT", "UPDATE"),
    "host": ("SELECT", "INSERT", "UPDATE"),
    **{table.name: ("SELECT", "INSERT", "UPDATE", "DELETE") for table in _FACETS},
    "vm_managed": ("SELECT", "INSERT", "UPDATE"),
    "vm_change": ("INSERT",),
    "host_change": ("INSERT",),
    "sink_position": ("SELECT", "INSERT", "UPDATE"),
    "fleet_count": ("SELECT", "INSERT", "UPDATE"),
    "schema_migration": ("SELECT",),
}
"""By table; all that the sink's role has."""

VIEWS = ("vm_overview", "host_overview", "vm_guest_nic", "vm_device", "fleet_summary")
READABLE = (*SINK_PRIVILEGES, *VIEWS)
"""What the reader's role may SELECT."""


class RoleOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What was done about roles."""

    created: tuple[str, ...]
    missing: tuple[str, ...]
    """Roles that this login may not create or let in."""


def ensure_roles(connection: Connection, roles: RoleSettings) -> RoleOutcome:
    """Create the roles that are missing, where this login has the right to; safe to repeat.

    A role with a password in the settings may log in with it, from now on; one without is made without login.
    """
    created, missing = [], []
    for name, password in (
        (roles.migrator, roles.migrator_password),
        (roles.sink, roles.sink_password),
        (roles.reader, roles.reader_password),
    ):
        try:
            if not _exists(connection, name):
                _create(connection, name)
                created.append(name)
            if password is not None:
                _let_in(connection, name, password)
        except psycopg.errors.InsufficientPrivilege:
            missing.append(name)
    return RoleOutcome(created=tuple(created), missing=tuple(missing))


def _create(connection: Connection, role: str) -> None:
    # Another process may be faster; then the role is there, which is all we want.
    with suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
        connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))


def _let_in(connection: Connection, role: str, password: Secret) -> None:
    # Hashed here, so that the password itself is never in a statement, which servers log.
    hashed = connection.pgconn.encrypt_password(password.reveal().encode(), role.encode(), b"scram-sha-256")
    connection.execute(
        sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(hashed.decode()))
    )


def become_migrator(connection: Connection, roles: RoleSettings) -> bool:
    """Act as the migrator from here on, so that it owns what is made; False when this login can not."""
    migrator = sql.Identifier(roles.migrator)
    row = connection.execute(
        "SELECT u.rolsuper, pg_has_role(current_user, r.oid, 'MEMBER') FROM pg_roles u, pg_roles r "
        "WHERE u.rolname = current_user AND r.rolname = %s",
        (roles.migrator,),
    ).fetchone()
    if row is None or not (row[0] or row[1]):
        return False
    if row[0]:
        connection.execute(sql.SQL("GRANT USAGE, CREATE ON SCHEMA public TO {}").format(migrator))
    connection.execute(sql.SQL("SET ROLE {}").format(migrator))
    return True


def grant_privileges(connection: Connection, roles: RoleSettings, place: str) -> None:
    """Give each existing role what it may do, and take what it may not; safe to repeat."""
    try:
        with connection.transaction():
            for statement in _grants(connection, roles):
                connection.execute(statement)
    except psycopg.Error as error:
        if verdict_of(error) is not Verdict.SCHEMA:
            raise
        raise DatabaseRefused(
            f"privileges can not be granted: {describe(error)}", where=place, advice="migrate as the tables' owner"
        ) from error


def _grants(connection: Connection, roles: RoleSettings) -> Iterator[sql.Composed]:
    tables = sql.SQL(", ").join(map(sql.Identifier, READABLE))
    if _exists(connection, roles.sink):
        sink = sql.Identifier(roles.sink)
        yield sql.SQL("REVOKE ALL ON {} FROM {}").format(tables, sink)
        for table, privileges in SINK_PRIVILEGES.items():
            allowed = sql.SQL(", ").join(map(sql.SQL, privileges))
            yield sql.SQL("GRANT {} ON {} TO {}").format(allowed, sql.Identifier(table), sink)
        yield sql.SQL("GRANT EXECUTE ON FUNCTION ensure_partitions(date, date) TO {}").format(sink)
    if _exists(connection, roles.reader):
        yield sql.SQL("GRANT SELECT ON {} TO {}").format(tables, sql.Identifier(roles.reader))


def _exists(connection: Connection, role: str) -> bool:
    row: tuple[Any, ...] | None = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
    return row is not None
