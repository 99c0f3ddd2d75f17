"""`deltavisor resync HOST|--all`: have hosts say everything they know again."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from infra.cli.connect import Bootstrap, ConfigFile, StackName, reader_settings
from infra.cli.progress import Countdown
from infra.repair.fleet import choose, known_hosts
from infra.repair.resync import resync
from infra.runtime.errors import ConfigError
from infra.runtime.kafka import wait_for_kafka
from infra.runtime.topics import TopicSet
from schemas.status import Reachability

NOT_ANSWERED = 1


def command(
    hosts: Annotated[
        list[str] | None, typer.Argument(metavar="HOST...", help="Id, beginning of an id, or host name.")
    ] = None,
    all_hosts: Annotated[bool, typer.Option("--all", help="Every host that host.state knows.")] = False,
    force: Annotated[
        bool, typer.Option("--force/--no-force", help="Let what seems unchanged pass too: repairs both stages.")
    ] = True,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout", min=1, help="Seconds to wait after the last request; an agent answers once a minute."
        ),
    ] = 150.0,
    rate: Annotated[float, typer.Option("--rate", min=0.1, help="Hosts asked per second.")] = 10.0,
    stack: StackName = "default",
    bootstrap: Bootstrap = None,
    config: ConfigFile = None,
) -> None:
    """Ask hosts for a snapshot and wait until each has sent one.

    Ends with 0 when all answered, 1 when one did not (each is named), 64 for an unknown host, 69 when Kafka does not
    answer.
    """
    if bool(hosts) is all_hosts:
        raise ConfigError("say which hosts", advice="name them, or give --all")
    settings = reader_settings(stack, bootstrap=bootstrap, file=config)
    wait_for_kafka(settings.kafka)
    topics = TopicSet.of(settings.kafka, settings.topics)
    known = known_hosts(settings.kafka, topics)
    asked = known if all_hosts else choose(known, hosts or [])
    console = Console()
    if not asked:
        console.print("no host is known")
        return
    for host in asked:
        if host.reachability in (Reachability.SILENT, Reachability.AGENT_STOPPED):
            console.print(f"{host} is {host.reachability}: it can hardly answer")
    countdown = Countdown(console, len(asked), "hosts have answered")
    missing = resync(
        settings.kafka, topics, asked, force=force, seconds=timeout, per_second=rate, progress=countdown.left
    )
    countdown.left(len(missing), last=True)
    for host in missing:
        console.print(f"[red]{host} did not answer[/red] within {timeout:.0f} s")
    raise typer.Exit(NOT_ANSWERED if missing else 0)
