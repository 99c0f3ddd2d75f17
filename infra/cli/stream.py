"""``deltavisor stream hosts|vms``: one worker of a stream stage, in the foreground; ``rollback``: back to older rules.

Several workers of a stage share its partitions; each needs a name of its own (`--worker-name`), which it keeps over
restarts. The supervisor restarts a worker that ends with 69 to 73; 64 and 74 to 77 need a human.
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.runtime.errors import ExitCode
from infra.runtime.failpoints import armed_in
from infra.runtime.lifecycle import run_service
from infra.runtime.log import configure_logging
from streams.runtime.settings import HostsStreamSettings, StreamSettings, VmsStreamSettings

app = typer.Typer(
    no_args_is_help=True,
    help="Run one worker of a stream stage in the foreground, or roll a stage back.\n\n"
    "A worker ends with 0 when stopped in order, 64 for a bad setting, 69 when Kafka does not answer, 70 after a "
    "failed delivery, 71 when it stood still too long, 72 when stuck, 73 when an input offset is missing, 74 when it "
    "met newer records or rules, 75 when the topics are not as declared.",
)

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="Settings file (TOML).")]
BootstrapOption = Annotated[str | None, typer.Option("--bootstrap", help="Broker address, host:port.")]
PrefixOption = Annotated[str | None, typer.Option("--prefix", help="Put before every topic name.")]
PartitionsOption = Annotated[int | None, typer.Option("--partitions", help="Partitions every topic has.")]
WorkerNameOption = Annotated[
    str | None, typer.Option("--worker-name", help="Identity kept over restarts; unique within the stage.")
]
HttpPortOption = Annotated[
    str | None, typer.Option("--http-port", help='Port of /metrics, /livez and /readyz; 0 takes a free one, or "off".')
]


@app.command()
def hosts(
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
    prefix: PrefixOption = None,
    partitions: PartitionsOption = None,
    worker_name: WorkerNameOption = None,
    http_port: HttpPortOption = None,
) -> None:
    """Host reports to observations of VMs and hosts; also makes the ticks."""
    flags = _flags(bootstrap, prefix, partitions, worker_name, http_port)
    settings = HostsStreamSettings.load(config, os.environ, flags)
    # Imported here: either stage runs where the other cannot be loaded.
    from streams.hosts.app import build

    _run(settings, build)


@app.command()
def vms(
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
    prefix: PrefixOption = None,
    partitions: PartitionsOption = None,
    worker_name: WorkerNameOption = None,
    http_port: HttpPortOption = None,
) -> None:
    """Observations to the state and the changes of every VM."""
    flags = _flags(bootstrap, prefix, partitions, worker_name, http_port)
    settings = VmsStreamSettings.load(config, os.environ, flags)
    from streams.vms.app import build

    _run(settings, build)


class RolledBack(StrEnum):
    """A stage that can be rolled back."""

    HOSTS = "hosts"
    VMS = "vms"


@app.command()
def rollback(
    stage: Annotated[RolledBack, typer.Argument(help="hosts first, vms after it.")],
    to_rules: Annotated[
        int | None, typer.Option("--to-rules", help="Rules to go back to; those of this version when not said.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigOption = None,
    stack: Annotated[str, typer.Option("--stack", help="Embedded stack to use when no broker is set.")] = "default",
    bootstrap: BootstrapOption = None,
    prefix: PrefixOption = None,
    partitions: PartitionsOption = None,
) -> None:
    """Let workers of this version go on with what a newer version wrote.

    Stop the newer workers of the stage, install the older version, and run its command: it looks whether it can read
    every row and every input that is left, then writes each partition's own row again. No state changes, no input is
    left out. Killed anywhere, run it again.

    Ends with 0 when done or when there was nothing to do, 1 when you say no, 64 while workers run or hosts was not
    rolled back yet, 69 when Kafka does not answer, 74 when something can not be read by this version, 75 when a table
    is lost.
    """
    from infra.cli.mending import confirm, reported
    from infra.cli.topics import TopicCommandSettings, embedded_bootstrap
    from infra.rebuild.rollback import plan_rollback, run_rollback
    from schemas.rules import RULES_VERSION

    flags: dict[str, dict[str, Any]] = {
        "kafka": {"bootstrap": bootstrap, "topic_prefix": prefix},
        "topics": {"partitions": partitions},
    }
    with reported():
        settings = TopicCommandSettings.load(config, os.environ, flags)
        if "bootstrap" not in settings.kafka.model_fields_set and (embedded := embedded_bootstrap(stack)) is not None:
            flags["kafka"]["bootstrap"] = embedded
            settings = TopicCommandSettings.load(config, os.environ, flags)
        chosen = RULES_VERSION if to_rules is None else to_rules
        plan = plan_rollback(settings.kafka, settings.topics, stage.value, to_rules=chosen)
        if plan.due:
            confirm(plan.sentences(), yes=yes)
            run_rollback(settings.kafka, settings.topics, plan, say=typer.echo)
        else:
            typer.echo(" ".join(plan.sentences()))


def _flags(
    bootstrap: str | None, prefix: str | None, partitions: int | None, worker_name: str | None, http_port: str | None
) -> dict[str, Any]:
    return {
        "kafka": {"bootstrap": bootstrap, "topic_prefix": prefix},
        "topics": {"partitions": partitions},
        "worker_name": worker_name,
        "http": {"port": http_port},
    }


def _run(settings: StreamSettings, build: Any) -> None:
    from streams.runtime.wiring import PLAIN
    from streams.runtime.worker import StreamService

    configure_logging(settings.log, component=settings.component, process=settings.instance)
    wiring = PLAIN
    if (armed := armed_in(os.environ, settings.component)) is not None:
        from streams.runtime.breaking import breaking

        wiring = breaking(armed)
    code = run_service(StreamService(settings, build, wiring), settings=settings.lifecycle)
    if code is not ExitCode.OK:
        raise typer.Exit(code)
