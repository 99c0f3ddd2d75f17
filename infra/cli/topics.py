"""``deltavisor topics``: create the topics of a fleet, compare them with their declarations, adopt new ones."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.runtime.errors import ConfigError, DeltavisorError, ExitCode
from infra.runtime.settings import ComponentSettings, KafkaSettings, TopicSettings
from infra.runtime.settings_sources import near
from infra.runtime.topics import ALL_TOPICS, TopicAdmin, TopicProblem

app = typer.Typer(
    name="topics",
    no_args_is_help=True,
    help="Create, check and adopt the topics of a fleet.\n\n"
    "Ends with 0 when all is as declared, 64 for a bad setting, 69 when Kafka does not answer, "
    "75 when a topic differs from its declaration.",
)


class TopicCommandSettings(ComponentSettings):
    """Tables ``[kafka]`` and ``[topics]``, shared with every component; ``[cli]`` overrides them for this command."""

    component = "cli"

    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()


ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="Settings file (TOML).")]
StackOption = Annotated[str, typer.Option("--stack", help="Embedded stack to use when no broker is set.")]
BootstrapOption = Annotated[str | None, typer.Option("--bootstrap", help="Broker address, host:port.")]
PrefixOption = Annotated[str | None, typer.Option("--prefix", help="Put before every topic name.")]
PartitionsOption = Annotated[
    int | None,
    typer.Option("--partitions", help="Partitions of every topic: 4 embedded, 24 in production. Fixed for ever."),
]
ReplicationOption = Annotated[int | None, typer.Option("--replication-factor", help="Copies of each partition.")]
InsyncOption = Annotated[
    int | None, typer.Option("--min-insync-replicas", help="Copies that must have a record before it counts as sent.")
]
_Flags = dict[str, dict[str, Any]]

TopicsArgument = Annotated[list[str] | None, typer.Argument(help="Topics by declared name; all when none is named.")]


@app.command()
def apply(
    topics: TopicsArgument = None,
    config: ConfigOption = None,
    stack: StackOption = "default",
    bootstrap: BootstrapOption = None,
    prefix: PrefixOption = None,
    partitions: PartitionsOption = None,
    replication_factor: ReplicationOption = None,
    min_insync_replicas: InsyncOption = None,
    alter: Annotated[
        bool, typer.Option("--alter", help="Also raise limits of existing topics that are too low.")
    ] = False,
) -> None:
    """Create the topics that are missing.

    Safe to repeat. Existing topics are compared, and changed only with --alter and only where nothing can be lost:
    never their partition count, cleanup policy or timestamp type.
    """
    flags: _Flags = {
        "kafka": {"bootstrap": bootstrap, "topic_prefix": prefix},
        "topics": {
            "partitions": partitions,
            "replication_factor": replication_factor,
            "min_insync_replicas": min_insync_replicas,
        },
    }
    with _reported():
        admin = _admin(config, stack, flags)
        applied = admin.apply(_chosen(topics), alter=alter)
        for verb, names in (("created", applied.created), ("altered", applied.altered)):
            for name in names:
                typer.echo(f"{verb} {name}")
        typer.echo(
            f"{len(applied.created)} created, {len(applied.altered)} altered, {len(applied.unchanged)} left as they are"
        )
        _end_with(applied.problems)


@app.command()
def check(
    topics: TopicsArgument = None,
    config: ConfigOption = None,
    stack: StackOption = "default",
    bootstrap: BootstrapOption = None,
    prefix: PrefixOption = None,
    partitions: PartitionsOption = None,
) -> None:
    """Compare the topics with their declarations; change nothing."""
    flags: _Flags = {"kafka": {"bootstrap": bootstrap, "topic_prefix": prefix}, "topics": {"partitions": partitions}}
    with _reported():
        chosen = _chosen(topics)
        admin = _admin(config, stack, flags)
        _end_with(admin.check(chosen))
        typer.echo(f"topics as declared: {len(chosen)}, with {admin.topic_set.partitions} partitions each")


@app.command("adopt")
def adopt_topics(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigOption = None,
    stack: StackOption = "default",
    bootstrap: BootstrapOption = None,
    prefix: PrefixOption = None,
    partitions: PartitionsOption = None,
    dsn: Annotated[str | None, typer.Option("--dsn", help="PostgreSQL of the sink.")] = None,
    password_file: Annotated[Path | None, typer.Option("--password-file", help="Password of its login.")] = None,
    no_postgres: Annotated[bool, typer.Option("--no-postgres", help="There is no database.")] = False,
) -> None:
    """Take topics that were created again, or lost their end, for those that tables and database belong to.

    Stop all workers first; agents may go on. The log number of host.reports rises, so does the generation of
    vm.observations; nothing is confirmed any more and every host is asked for a whole snapshot. The sink begins at the
    start of a new vm.changes, and takes whole states where changes are missing. A lost table is not adopted: see
    `deltavisor rebuild`. Killed anywhere, run it again.
    """
    flags: _Flags = {"kafka": {"bootstrap": bootstrap, "topic_prefix": prefix}, "topics": {"partitions": partitions}}
    # Imported here: the other commands work without streams and database.
    from infra.cli.mending import confirm, fleet_of
    from infra.rebuild.job import plan_adoption, run_adoption

    with _reported():
        fleet = fleet_of(config, stack, flags, dsn=dsn, password_file=password_file, no_postgres=no_postgres)
        plan = plan_adoption(fleet)
        if plan.empty:
            typer.echo("nothing to adopt: tables and positions belong to the topics as they are")
            return
        confirm(plan.sentences(), yes=yes)
        run_adoption(fleet, plan)
    typer.echo("adopted; start the line")


def _admin(config: Path | None, stack: str, flags: _Flags) -> TopicAdmin:
    settings = TopicCommandSettings.load(config, os.environ, flags)
    if "bootstrap" not in settings.kafka.model_fields_set and (embedded := embedded_bootstrap(stack)) is not None:
        flags["kafka"]["bootstrap"] = embedded
        settings = TopicCommandSettings.load(config, os.environ, flags)
    return TopicAdmin(settings.kafka, settings.topics)


def embedded_bootstrap(stack: str) -> str | None:
    """Kafka of the embedded stack, None when it does not run."""
    # Imported here: this command also works where the embedded servers are not installed.
    from infra.stack.endpoints import endpoints_of

    endpoints = endpoints_of(stack)
    return None if endpoints is None else endpoints.kafka


def _chosen(topics: Sequence[str] | None) -> tuple[str, ...]:
    for topic in topics or ():
        if topic not in ALL_TOPICS:
            raise ConfigError(f"no topic is called {topic!r}", advice=near(topic, ALL_TOPICS))
    return tuple(topics) if topics else ALL_TOPICS


def _end_with(problems: Sequence[TopicProblem]) -> None:
    for problem in problems:
        typer.echo(str(problem), err=True)
    if problems:
        raise typer.Exit(ExitCode.TOPIC_MISMATCH)


@contextmanager
def _reported() -> Iterator[None]:
    """Print an error of ours as one sentence and end with its exit code."""
    try:
        yield
    except DeltavisorError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
