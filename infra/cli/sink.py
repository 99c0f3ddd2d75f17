"""`deltavisor sink`: run one sink worker."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer

from infra.cli.connect import Bootstrap, ConfigFile, Database, StackName
from infra.cli.db import ADMIN_SECRET, same_server
from infra.stack.endpoints import endpoints_of
from sinks.postgres.main import check as check_sink
from sinks.postgres.main import run as run_sink
from sinks.postgres.settings import PostgresSettings

app = typer.Typer(no_args_is_help=True, help="Run one worker of a sink; start several to share the partitions.")

_SINK_SECRET = "pg_sink"  # noqa: S105 (the name of a file)


@app.callback()
def _group() -> None:
    """Run one worker of a sink; start several to share the partitions."""


@app.command()
def postgres(
    config: ConfigFile = None,
    dsn: Database = None,
    password_file: Annotated[
        Path | None, typer.Option("--password-file", help="File with the login's password.", dir_okay=False)
    ] = None,
    bootstrap: Bootstrap = None,
    stack: StackName = "default",
    check: Annotated[
        bool, typer.Option("--check", help="Validate settings, connect, compare schema; then end.")
    ] = False,
) -> None:
    """Write vm.changes and host.changes into PostgreSQL: current rows and history, exactly once.

    Migrate the database first (`deltavisor db migrate`). Without addresses the embedded stack's servers are used, with
    the sink's own login. Ends with 0 when stopped by a signal, 69 when a server did not answer at start, 71 when
    another worker took over, 73 or 75 when the topic is not the one the database knows, 76 when a table or a
    permission is missing, 77 for a record that can not be stored.
    """
    settings = sink_settings(stack, bootstrap=bootstrap, dsn=dsn, password_file=password_file, file=config)
    if check:
        check_sink(settings)
        print("the sink can run: Kafka, topics, PostgreSQL and schema are as it needs them")
        return
    raise typer.Exit(run_sink(settings, os.environ))


def sink_settings(
    stack: str,
    *,
    bootstrap: str | None = None,
    dsn: str | None = None,
    password_file: Path | None = None,
    file: Path | None = None,
) -> PostgresSettings:
    """Settings of the sink; the stack's addresses and the sink's login there stand in where nothing else is named.

    Raises ConfigError for unknown keys.
    """
    overrides: dict[str, Any] = {"kafka.bootstrap": bootstrap, "dsn": dsn, "password_file": password_file}
    settings = PostgresSettings.load(file, os.environ, overrides)
    endpoints = endpoints_of(stack)
    if endpoints is None:
        return settings
    if "bootstrap" not in settings.kafka.model_fields_set:
        overrides["kafka.bootstrap"] = endpoints.kafka
    if "dsn" not in settings.model_fields_set or same_server(settings.dsn, endpoints.postgres):
        _use_sink_login(overrides, settings, endpoints.postgres, endpoints.secrets_dir)
    return PostgresSettings.load(file, os.environ, overrides)


def _use_sink_login(overrides: dict[str, Any], settings: PostgresSettings, dsn: str, secrets: Path) -> None:
    """Use the embedded database as the sink's own role, so that a mistake here can not change a table."""
    secret = secrets / _SINK_SECRET
    if secret.exists():
        overrides["dsn"] = psycopg.conninfo.make_conninfo(dsn, user=settings.roles.sink)
        overrides["password_file"] = secret
    else:
        overrides["dsn"] = dsn
        overrides["password_file"] = secrets / ADMIN_SECRET
