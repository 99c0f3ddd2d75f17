"""Where a command finds the servers: flags, then environment and file, then the embedded stack."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

import psycopg
import typer

from infra.runtime.errors import ConfigError
from infra.runtime.settings import ComponentSettings, KafkaSettings, Secret, TopicSettings
from infra.stack.endpoints import Endpoints, endpoints_of
from sinks.postgres.connection import connect
from sinks.postgres.settings import Database as SinkDatabase

Reader = psycopg.Connection[dict[str, Any]]

StackName = Annotated[str, typer.Option("--stack", help="Embedded stack to use when no address is given.")]
Bootstrap = Annotated[str | None, typer.Option("--bootstrap", help="Kafka as host:port[,host:port…].")]
Database = Annotated[
    str | None,
    typer.Option("--dsn", help="PostgreSQL as libpq conninfo, without a password (PGPASSFILE or a service)."),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="Settings file (TOML).", dir_okay=False)]


class ReaderSettings(ComponentSettings):
    """Settings of the commands that only look: table `[reader]`."""

    component: ClassVar[str] = "reader"

    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    postgres_dsn: str | None = None
    postgres_password: Secret | None = None


def reader_settings(
    stack: str, *, bootstrap: str | None = None, dsn: str | None = None, file: Path | None = None
) -> ReaderSettings:
    """Settings of a looking command; the stack's addresses stand in where nothing else names a server.

    Raises ConfigError for unknown keys.
    """
    endpoints = endpoints_of(stack)
    overrides: dict[str, Any] = {"kafka.bootstrap": bootstrap, "postgres_dsn": dsn}
    settings = ReaderSettings.load(file, os.environ, overrides)
    if endpoints is None:
        return settings
    given = settings.model_fields_set
    if "kafka" not in given:
        overrides["kafka.bootstrap"] = endpoints.kafka
    if "postgres_dsn" not in given:
        overrides["postgres_dsn"] = reader_dsn(endpoints)
    if "postgres_password" not in given and (endpoints.secrets_dir / READER_SECRET).exists():
        overrides["postgres_password_file"] = str(endpoints.secrets_dir / READER_SECRET)
    return ReaderSettings.load(file, os.environ, overrides)


READER_ROLE = "deltavisor_reader"
READER_SECRET = "pg_reader"  # noqa: S105 (the name of a file)


def reader_dsn(endpoints: Endpoints) -> str:
    """Conninfo of the stack's database for the role that may only read."""
    return psycopg.conninfo.make_conninfo(endpoints.postgres, user=READER_ROLE)


def open_reader(settings: ReaderSettings) -> Reader:
    """A read-only, autocommit connection whose rows are dicts.

    Raises ConfigError without an address, NeighbourUnreachable when nothing answers, DatabaseRefused when the
    database does not let us in.
    """
    if settings.postgres_dsn is None:
        raise ConfigError(
            "no database is known",
            advice="start the embedded one with `deltavisor stack up`, or give --dsn",
        )
    database = SinkDatabase(dsn=settings.postgres_dsn, password=settings.postgres_password)
    connection = connect(database, application_name="deltavisor-cli")
    connection.execute("SET default_transaction_read_only = on")
    # The same connection from here on: only the shape of its rows changes.
    reader = cast(Reader, connection)
    reader.row_factory = psycopg.rows.dict_row
    return reader
