"""``deltavisor rebuild``: tables built again after Kafka, or a part of it, was lost."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from infra.cli.mending import (
    DsnOption,
    Flags,
    NoPostgresOption,
    PasswordFileOption,
    YesOption,
    confirm,
    fleet_of,
    reported,
)
from infra.cli.topics import BootstrapOption, ConfigOption, PartitionsOption, PrefixOption, StackOption
from infra.rebuild.job import plan_rebuild, run_rebuild
from infra.runtime.errors import ConfigError


class Source(StrEnum):
    """Where what is known comes from."""

    POSTGRES = "postgres"


def command(
    source: Annotated[Source, typer.Option("--from", help="What to rebuild from.")] = Source.POSTGRES,
    from_dump: Annotated[
        Path | None, typer.Option("--from-dump", help="Also from this state dump; of each VM the newest counts.")
    ] = None,
    yes: YesOption = False,
    config: ConfigOption = None,
    stack: StackOption = "default",
    bootstrap: BootstrapOption = None,
    prefix: PrefixOption = None,
    partitions: PartitionsOption = None,
    dsn: DsnOption = None,
    password_file: PasswordFileOption = None,
    no_postgres: NoPostgresOption = False,
) -> None:
    """Build the tables of both stages again from PostgreSQL or a state dump, when Kafka or a table was lost.

    Stop all workers first; agents may go on. Missing topics are created. Every VM that the tables lack begins a new
    incarnation with what was last known of it, unknown/rebuilding until its host has said everything again; a host
    that never does keeps its VMs so. Nothing is called down. The sink's positions follow in the end. Tables that
    are whole are left alone. Killed anywhere, run it again.

    Ends with 0 when done, 1 when you say no, 64 while workers run or nothing is known, 69 when a server does not
    answer, 75 when topics differ from their declaration.
    """
    flags: Flags = {"kafka": {"bootstrap": bootstrap, "topic_prefix": prefix}, "topics": {"partitions": partitions}}
    with reported():
        if no_postgres and from_dump is None:
            raise ConfigError("--no-postgres leaves nothing to rebuild from", advice="add --from-dump FILE")
        fleet = fleet_of(config, stack, flags, dsn=dsn, password_file=password_file, no_postgres=no_postgres)
        plan = plan_rebuild(fleet, dump=from_dump, say=typer.echo)
        confirm(plan.sentences(), yes=yes)
        done = run_rebuild(fleet, plan, now_seconds=time.time(), say=typer.echo)
    typer.echo(f"done: {done.vms} VMs and {done.hosts} hosts taken in; start the line")
