"""`deltavisor db`: bring the database's schema up to date, or check it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer

from infra.cli.connect import ConfigFile, Database, StackName
from infra.runtime.errors import ConfigError
from infra.stack.endpoints import endpoints_of
from sinks.postgres.connection import connect, where
from sinks.postgres.migrate import load
from sinks.postgres.reference import render
from sinks.postgres.schema import check_schema, migrate_database
from sinks.postgres.settings import PostgresSettings

app = typer.Typer(
    no_args_is_help=True,
    help="Migrate the database, or check it.\n\n"
    "Settings are those of the sink (table `\\[postgres]`), but the login is yours to choose: `migrate` wants one that "
    "owns the schema, or a superuser to create the roles. Without an address the embedded stack's is used.\n\n"
    "Ends with 0 when the schema is as this program needs it, 64 for a bad setting, 69 when PostgreSQL does not "
    "answer, 76 when something is missing or refused.",
)

PasswordFile = Annotated[
    Path | None, typer.Option("--password-file", help="File with the login's password.", dir_okay=False)
]

ADMIN_SECRET = "postgres"  # noqa: S105 (the name of a file)
_ROLE_SECRETS = {
    "migrator_password_file": "pg_migrator",
    "sink_password_file": "pg_sink",
    "reader_password_file": "pg_reader",
}


@app.command()
def migrate(
    dsn: Database = None, password_file: PasswordFile = None, config: ConfigFile = None, stack: StackName = "default"
) -> None:
    """Create or update roles, tables, views and privileges.

    Forward only; safe to repeat, and by two at once. Roles that get no password (postgres.roles.*_password_file) are
    made without login: grant them to logins of yours.
    """
    settings = admin_settings(stack, dsn=dsn, password_file=password_file, file=config)
    done = migrate_database(settings.database, settings.roles)
    for migration in done.applied:
        print(f"applied {migration.number:04d} {migration.description}")
    for role in done.roles.created:
        print(f"created role {role}")
    for role in done.roles.missing:
        print(f"role {role} could not be made or changed by this login: create it as a superuser, then migrate again")
    print(f"{where(settings.database)} is up to date, {done.partitions} day partitions were added")


@app.command()
def check(
    dsn: Database = None, password_file: PasswordFile = None, config: ConfigFile = None, stack: StackName = "default"
) -> None:
    """Compare the schema with what this program needs; change nothing."""
    settings = admin_settings(stack, dsn=dsn, password_file=password_file, file=config)
    with connect(settings.database, application_name="deltavisor-check") as connection:
        check_schema(connection, where(settings.database))
    print(f"{where(settings.database)} is as this program needs it")


@app.command()
def describe() -> None:
    """Print the reference of tables, views and functions; needs no database."""
    sys.stdout.write(render(load()))


def admin_settings(
    stack: str, *, dsn: str | None = None, password_file: Path | None = None, file: Path | None = None
) -> PostgresSettings:
    """Settings for a login that owns the schema; the embedded stack's superuser when its database is meant.

    Its database is meant when none is named, or when the one named is its own: then passwords of the roles are the
    stack's too. Raises ConfigError for unknown keys.
    """
    overrides: dict[str, Any] = {"dsn": dsn, "password_file": password_file}
    settings = PostgresSettings.load(file, os.environ, overrides)
    endpoints = endpoints_of(stack)
    if endpoints is None:
        return settings
    if "dsn" in settings.model_fields_set and not same_server(settings.dsn, endpoints.postgres):
        return settings
    overrides["dsn"] = dsn or endpoints.postgres
    secret = endpoints.secrets_dir / ADMIN_SECRET
    if password_file is None and secret.exists():
        overrides["password_file"] = secret
    given = settings.roles.model_fields_set
    for field, name in _ROLE_SECRETS.items():
        if field.removesuffix("_file") not in given and (endpoints.secrets_dir / name).exists():
            overrides[f"roles.{field}"] = endpoints.secrets_dir / name
    return PostgresSettings.load(file, os.environ, overrides)


def same_server(dsn: str, other: str) -> bool:
    """True when both name the same host, port and database. ConfigError when the first is malformed."""
    try:
        given = psycopg.conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        raise ConfigError("not a libpq connection string", where="postgres.dsn") from error
    meant = psycopg.conninfo.conninfo_to_dict(other)
    return all(given.get(part) == meant.get(part) for part in ("host", "port", "dbname"))
