"""`deltavisor republish VM...|--all`: have VMs written to vm.state again, under the same version."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer
from rich.console import Console

from infra.cli.connect import Bootstrap, ConfigFile, StackName, reader_settings
from infra.cli.progress import Countdown
from infra.repair.fleet import known_vms, vm_ids
from infra.repair.republish import republish
from infra.runtime.errors import ConfigError
from infra.runtime.kafka import wait_for_kafka
from infra.runtime.topics import TopicSet

NOT_WRITTEN = 1


def command(
    vms: Annotated[list[str] | None, typer.Argument(metavar="VM...", help="Ids of VMs.")] = None,
    all_vms: Annotated[bool, typer.Option("--all", help="Every VM that vm.state holds.")] = False,
    partition: Annotated[int | None, typer.Option("--partition", min=0, help="With --all: of this partition.")] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds to wait after the last request.")] = 60.0,
    stack: StackName = "default",
    bootstrap: Bootstrap = None,
    config: ConfigFile = None,
) -> None:
    """Ask the vms stage to publish VMs again, and wait until it has.

    Readers who have the version drop it, those who lack it take it. Ends with 0 when all were written, 1 when one was
    not, 64 for what is no id, 69 when Kafka does not answer.
    """
    if bool(vms) is all_vms:
        raise ConfigError("say which VMs", advice="give their ids, or --all")
    if partition is not None and not all_vms:
        raise ConfigError("--partition goes with --all")
    settings = reader_settings(stack, bootstrap=bootstrap, file=config)
    wait_for_kafka(settings.kafka)
    topics = TopicSet.of(settings.kafka, settings.topics)
    if partition is not None and partition >= topics.partitions:
        raise ConfigError(f"there is no partition {partition}", advice=f"they are 0 to {topics.partitions - 1}")
    asked = known_vms(settings.kafka, topics, partition) if all_vms else vm_ids(vms or [])
    console = Console()
    if not asked:
        console.print("no VM is known")
        return
    countdown = Countdown(console, len(asked), "VMs were written again")
    missing = republish(settings.kafka, topics, asked, by=getpass.getuser(), seconds=timeout, progress=countdown.left)
    countdown.left(len(missing), last=True)
    for vm_id in missing[:20]:
        console.print(f"[red]{vm_id} was not written[/red] within {timeout:.0f} s")
    if len(missing) > 20:
        console.print(f"and {len(missing) - 20} more")
    raise typer.Exit(NOT_WRITTEN if missing else 0)
