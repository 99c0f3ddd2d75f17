"""What the commands that mend a fleet have in common: where it is, and a question before anything is changed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.cli.db import admin_settings
from infra.cli.topics import TopicCommandSettings, embedded_bootstrap
from infra.rebuild.job import Fleet
from infra.runtime.errors import DeltavisorError, ExitCode

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DsnOption = Annotated[
    str | None, typer.Option("--dsn", help="PostgreSQL of the sink, as a login that may read all and move positions.")
]
PasswordFileOption = Annotated[Path | None, typer.Option("--password-file", help="File with the login's password.")]
NoPostgresOption = Annotated[bool, typer.Option("--no-postgres", help="There is no database, or leave it alone.")]

Flags = dict[str, dict[str, Any]]


def fleet_of(
    config: Path | None,
    stack: str,
    flags: Flags,
    *,
    dsn: str | None,
    password_file: Path | None,
    no_postgres: bool,
) -> Fleet:
    """Where everything is; the embedded stack stands in where nothing else is named. Raises ConfigError."""
    settings = TopicCommandSettings.load(config, os.environ, flags)
    if "bootstrap" not in settings.kafka.model_fields_set and (embedded := embedded_bootstrap(stack)) is not None:
        flags["kafka"]["bootstrap"] = embedded
        settings = TopicCommandSettings.load(config, os.environ, flags)
    postgres = admin_settings(stack, dsn=dsn, password_file=password_file, file=config)
    return Fleet(
        kafka=settings.kafka,
        topics=settings.topics,
        database=None if no_postgres else postgres.database,
        sink_group=postgres.group,
    )


def confirm(sentences: Iterable[str], *, yes: bool) -> None:
    """Say what will be done and ask. Ends with 1 on a no, with 2 when nobody can be asked."""
    for sentence in sentences:
        typer.echo(sentence)
    if yes:
        return
    if not sys.stdin.isatty():
        typer.echo("nobody can be asked here: add --yes to do it", err=True)
        raise typer.Exit(ExitCode.USAGE)
    if not typer.confirm("do it?"):
        raise typer.Exit(1)


@contextmanager
def reported() -> Iterator[None]:
    """Print an error of ours as one sentence and end with its exit code."""
    try:
        yield
    except DeltavisorError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
