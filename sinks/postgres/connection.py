"""A connection of the sink: settings to libpq, session parameters, binary arrays as parameters."""

from typing import Any

import psycopg
from psycopg.adapt import Buffer, Dumper
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Format

from infra.runtime.errors import ConfigError, DatabaseRefused, NeighbourUnreachable
from sinks.postgres.binary import ARRAY_OIDS, Array
from sinks.postgres.settings import Database
from sinks.postgres.sqlstate import Verdict, describe, verdict_of
from sinks.postgres.statements import OLDEST_SERVER

Connection = psycopg.Connection[tuple[Any, ...]]


class _ArrayDumper(Dumper):
    """Sends an Array as it is; its kind decides the type."""

    format = Format.BINARY

    def dump(self, obj: Array) -> Buffer:
        return obj.data

    def get_key(self, obj: Array, format: psycopg.adapt.PyFormat) -> Any:
        return (self.cls, obj.kind)

    def upgrade(self, obj: Array, format: psycopg.adapt.PyFormat) -> Dumper:
        dumper = _ArrayDumper(self.cls)
        dumper.oid = ARRAY_OIDS[obj.kind]
        return dumper


class LoginRefused(DatabaseRefused):
    """The server answered, and did not let us in: login, password, database name or its right to connect."""


def where(settings: Database) -> str:
    """Address of the database for messages; without any secret."""
    try:
        parts = conninfo_to_dict(settings.dsn)
    except psycopg.ProgrammingError as error:
        raise _malformed() from error
    host = parts.get("host") or parts.get("hostaddr") or "the default socket"
    port = f":{parts['port']}" if parts.get("port") else ""
    database = f", database {parts['dbname']}" if parts.get("dbname") else ""
    return f"PostgreSQL at {host}{port}{database}"


def connect(settings: Database, *, application_name: str, kind: type[Connection] = psycopg.Connection) -> Connection:
    """A connection of this kind in autocommit mode, so that transactions are begun where they are meant.

    Raises NeighbourUnreachable when nothing answers, LoginRefused when we are not let in, DatabaseRefused when the
    server is too old or refuses the role.
    """
    place = where(settings)
    try:
        connection = kind.connect(_conninfo(settings, application_name), autocommit=True)
    except psycopg.OperationalError as error:
        if _was_let_speak(error):
            raise LoginRefused(
                f"the login was refused ({_first_line(error)})",
                where=place,
                advice="run `deltavisor db migrate` if the database is new; else mend user, password or database name",
            ) from error
        raise NeighbourUnreachable(
            f"no connection ({_first_line(error)})",
            where=place,
            advice="start PostgreSQL (`deltavisor stack up`), or mend postgres.dsn and postgres.password_file",
        ) from error
    try:
        _prepare_session(connection, settings, place)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare_session(connection: Connection, settings: Database, place: str) -> None:
    version = connection.info.server_version
    if version < OLDEST_SERVER:
        raise DatabaseRefused(
            f"this is PostgreSQL {version // 10_000}, and the sink needs 15 or newer",
            where=place,
            advice="use a newer server, or leave postgres.dsn to the embedded one",
        )
    parameters = {
        "synchronous_commit": "on",
        "client_encoding": "UTF8",
        "plan_cache_mode": "force_generic_plan",
        "jit": "off",
        "statement_timeout": f"{settings.timeouts.statement_seconds}s",
        "lock_timeout": f"{settings.timeouts.lock_seconds}s",
        "idle_in_transaction_session_timeout": f"{settings.timeouts.idle_in_transaction_seconds}s",
        "search_path": "public",
    }
    if settings.role is not None:
        parameters["role"] = settings.role
    calls = ", ".join(["set_config(%s, %s, false)"] * len(parameters))
    arguments = [text for pair in parameters.items() for text in pair]
    try:
        connection.execute(f"SELECT {calls}", arguments)
    except psycopg.Error as error:
        if verdict_of(error) is Verdict.AGAIN:
            raise NeighbourUnreachable(describe(error), where=place) from error
        raise DatabaseRefused(
            f"the session can not be set up: {describe(error)}",
            where=place,
            advice="grant the role to the login, or mend postgres.role",
        ) from error
    connection.adapters.register_dumper(Array, _ArrayDumper)


def _conninfo(settings: Database, application_name: str) -> str:
    given: dict[str, Any] = {
        "application_name": application_name,
        "connect_timeout": settings.timeouts.connect_seconds,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }
    if settings.password is not None:
        given["password"] = settings.password.reveal()
    try:
        return make_conninfo(settings.dsn, **given)
    except psycopg.ProgrammingError as error:
        raise _malformed() from error


def _malformed() -> ConfigError:
    # The text of the library's error is left out: it may quote a password.
    return ConfigError(
        "not a libpq connection string",
        where="postgres.dsn",
        advice="write it as 'host=... port=... dbname=... user=...'",
    )


def _was_let_speak(error: psycopg.OperationalError) -> bool:
    """True when the server got as far as asking for a password.

    libpq gives no SQLSTATE for a failed connection, but a server that starts, stops or is full says so before that.
    """
    attempt = error.pgconn
    return attempt is not None and (attempt.used_password or attempt.needs_password)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
