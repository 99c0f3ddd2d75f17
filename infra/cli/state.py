"""``deltavisor state``: the tables of both stages as a file, and what is in one."""

from __future__ import annotations

import os
import time
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from infra.cli.mending import Flags, reported
from infra.cli.topics import (
    BootstrapOption,
    ConfigOption,
    PartitionsOption,
    PrefixOption,
    StackOption,
    TopicCommandSettings,
    embedded_bootstrap,
)
from infra.rebuild.dump import FORMAT, DumpWriter, Header
from infra.rebuild.from_dump import HOSTS, VMS, load_dump, rows_of_hosts, rows_of_vms
from infra.rebuild.tables import Opened, hosts_tables, vms_tables
from infra.runtime.errors import ConfigError, TopicMismatch
from infra.runtime.topics import ALL_TOPICS, TopicAdmin
from streams.hosts.core import HostsCore
from streams.runtime.kept import REBUILD_ADVICE
from streams.vms.core import VmsCore

app = typer.Typer(
    no_args_is_help=True,
    help="Dump the tables of both stages into a file, or show what is in one.\n\n"
    "Ends with 0, 64 for a bad setting or file, 69 when Kafka does not answer, 75 when a table is lost.",
)

OutOption = Annotated[Path, typer.Option("--out", "-o", help="File to write; replaced when it is there.")]


@app.command()
def dump(
    out: OutOption,
    config: ConfigOption = None,
    stack: StackOption = "default",
    bootstrap: BootstrapOption = None,
    prefix: PrefixOption = None,
    partitions: PartitionsOption = None,
) -> None:
    """Write the tables of both stages with the offsets up to which they include their inputs.

    Also while workers run: each partition is as its own row says, so partitions may differ by seconds. For a savepoint
    of one moment stop the line first. The file holds what guests and hosts reported; only its owner may read it.
    """
    flags: Flags = {"kafka": {"bootstrap": bootstrap, "topic_prefix": prefix}, "topics": {"partitions": partitions}}
    with reported():
        settings = TopicCommandSettings.load(config, os.environ, flags)
        if "bootstrap" not in settings.kafka.model_fields_set and (embedded := embedded_bootstrap(stack)) is not None:
            flags["kafka"]["bootstrap"] = embedded
            settings = TopicCommandSettings.load(config, os.environ, flags)
        rows = write_dump(settings, out)
    typer.echo(f"{rows} rows of {settings.topics.partitions} partitions are in {out}")


def write_dump(settings: TopicCommandSettings, out: Path) -> int:
    """Dump both tables; how many rows. Raises ConfigError, TopicMismatch, NeighbourUnreachable."""
    kafka, partitions = settings.kafka, settings.topics.partitions
    found = dict(TopicAdmin(kafka, settings.topics).require(ALL_TOPICS))
    header = Header(
        format=FORMAT,
        made_at=time.time_ns(),
        program=version("deltavisor"),
        partitions=partitions,
        topic_ids={topic: description.topic_id for topic, description in found.items()},
    )
    hosts = hosts_tables(kafka, partitions, found, whole_batches=True)
    vms = vms_tables(kafka, partitions, found, whole_batches=True)
    writer = DumpWriter(out, header)
    try:
        for partition in range(partitions):
            one = hosts.open(partition)
            _require_usable(one, found[hosts.stage.table_topic].name)
            writer.add(HOSTS, partition, rows_of_hosts(one.core))
            other = vms.open(partition)
            _require_usable(other, found[vms.stage.table_topic].name)
            writer.add(VMS, partition, rows_of_vms(other.core))
        return writer.finish()
    finally:
        writer.abandon()


def _require_usable(one: Opened[HostsCore] | Opened[VmsCore], topic: str) -> None:
    if one.loss is not None:
        raise TopicMismatch(one.loss, where=f"{topic}[{one.partition}]", advice=REBUILD_ADVICE)


@app.command()
def show(file: Annotated[Path, typer.Argument(help="A state dump.", dir_okay=False)]) -> None:
    """Say what a dump holds: when it was made, per partition offsets, hosts and VMs. Reads all of it."""
    with reported():
        header, loaded = load_dump(file)
        made_at = datetime.fromtimestamp(header.made_at / 1e9, UTC)
        typer.echo(
            f"made {made_at:%Y-%m-%d %H:%M:%S} UTC by deltavisor {header.program}, {header.partitions} partitions"
        )
        statuses: Counter[str] = Counter()
        hosts = 0
        for one in loaded:
            if isinstance(one.core, HostsCore):
                hosts += len(one.core.hosts)
                claims = sum(len(host.vms) for host in one.core.hosts.values())
                typer.echo(
                    f"hosts[{one.partition}]: host.reports log {one.core.log} up to offset {one.core.applied}, "
                    f"{len(one.core.hosts)} hosts with {claims} VMs"
                )
            else:
                state = one.core.state
                statuses.update(vm.status.value for vm in state.vms.values())
                typer.echo(
                    f"vms[{one.partition}]: vm.observations generation {state.generation} up to offset "
                    f"{state.applied}, {len(state.vms)} VMs, {len(state.hosts)} hosts"
                )
        if not statuses and not hosts:
            raise ConfigError("the dump holds no host and no VM", where=str(file))
        typer.echo(f"in all {hosts} hosts; VMs: " + ", ".join(f"{n} {name}" for name, n in sorted(statuses.items())))
