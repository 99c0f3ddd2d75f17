"""`deltavisor agent`: the agent of one real host, or those of a whole simulated fleet."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar
from uuid import UUID

import typer

from infra.runtime.errors import ConfigError, NeighbourUnreachable
from infra.runtime.lifecycle import Service, run_service
from infra.runtime.log import configure_logging
from infra.runtime.settings import ComponentSettings
from producers.agent.settings import AgentSettings
from schemas.ids import BootId, HostId, MachineId


class SourceName(StrEnum):
    """What an agent can watch."""

    LIBVIRT = "libvirt"
    SIMULATOR = "simulator"


class LibvirtSettings(ComponentSettings):
    """Table `[libvirt]`: which libvirtd, and who this host is where it does not say so itself (ids as UUID text)."""

    component: ClassVar[str] = "libvirt"

    uri: str = "qemu:///system"
    host_id: UUID | None = None
    machine_id: UUID | None = None
    boot_id: UUID | None = None
    run_directory: Path | None = None
    """Where that libvirtd keeps its process id files, where the URI does not tell."""


_SIMULATOR = "Simulated fleet (--source simulator)"


SourceOption = Annotated[SourceName, typer.Option("--source", help="What to watch.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="Settings file (TOML).")]
BootstrapOption = Annotated[str | None, typer.Option("--bootstrap", help="Kafka as host:port[,host:port…].")]
PrefixOption = Annotated[str | None, typer.Option("--prefix", help="Put before every topic name.")]
UriOption = Annotated[
    str | None, typer.Option("--uri", help="libvirt connection, such as qemu:///system (--source libvirt).")
]
HostsOption = Annotated[int | None, typer.Option("--hosts", help="How many hosts.", rich_help_panel=_SIMULATOR)]
VmsOption = Annotated[int | None, typer.Option("--vms", help="How many VMs.", rich_help_panel=_SIMULATOR)]
SeedOption = Annotated[
    int | None, typer.Option("--seed", help="The same seed is the same fleet.", rich_help_panel=_SIMULATOR)
]
RateOption = Annotated[
    float | None, typer.Option("--rate", help="Happenings a second while it is busy.", rich_help_panel=_SIMULATOR)
]
LifeOption = Annotated[
    str | None,
    typer.Option(
        "--life",
        help='Phases such as "busy:30,stable:20"; stable after the last one. Without it always busy.',
        rich_help_panel=_SIMULATOR,
    ),
]
TruthOption = Annotated[
    Path | None,
    typer.Option(
        "--truth-file",
        help="Write what is true to this file whenever the fleet becomes stable, and at the end.",
        rich_help_panel=_SIMULATOR,
    ),
]
CheckOption = Annotated[
    bool, typer.Option("--check", help="Validate the settings, reach Kafka and the source, and end.")
]


def command(
    source: SourceOption = SourceName.LIBVIRT,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
    prefix: PrefixOption = None,
    uri: UriOption = None,
    hosts: HostsOption = None,
    vms: VmsOption = None,
    seed: SeedOption = None,
    rate: RateOption = None,
    life: LifeOption = None,
    truth_file: TruthOption = None,
    check: CheckOption = False,
) -> None:
    """Watch VMs and report what changed to Kafka.

    With --source libvirt, one agent runs on each hypervisor host. With --source simulator, one process plays a
    whole fleet and its agents: the same seed gives the same hosts and VMs.

    Settings come from the file (tables agent, kafka, topics, log, and libvirt or simulator), then from
    DELTAVISOR_AGENT__… and DELTAVISOR_SIMULATOR__… variables, then from flags. While Kafka is away the agent keeps
    the latest state of every VM and sends it when Kafka is back. On SIGTERM it sends what it has and says farewell.

    Ends with 0 when stopped, 64 for a bad setting, 69 when Kafka does not answer at the start, 75 when a topic
    differs from its declaration.

    Example: deltavisor agent --source simulator --hosts 20 --vms 6000 --rate 50 --life "busy:30,stable:20"
    """
    flags: dict[str, Any] = {"kafka.bootstrap": bootstrap, "kafka.topic_prefix": prefix}
    settings = AgentSettings.load(config, os.environ, flags)
    configure_logging(settings.log, component="agent", process=f"agent-{source.value}")
    simulator = {"hosts": hosts, "vms": vms, "seed": seed, "rate": rate, "life": life, "truth_file": truth_file}
    service = _service(source, settings, config, uri, simulator, check=check)
    if check:
        _check(service)
        typer.echo(f"settings, Kafka at {settings.kafka.bootstrap} and topics are as they have to be")
        return
    raise typer.Exit(run_service(service, settings=settings.lifecycle))


def _service(
    source: SourceName,
    settings: AgentSettings,
    config: Path | None,
    uri: str | None,
    simulator: dict[str, Any],
    *,
    check: bool,
) -> Service:
    """The agent of the chosen source. Raises ConfigError for a flag that belongs to another one."""
    if source is SourceName.SIMULATOR:
        if uri is not None:
            raise ConfigError("a simulated fleet has no libvirt", where="flag --uri", advice="leave it out")
        return _simulator(settings, config, simulator)
    if given := [f"--{name.replace('_', '-')}" for name, value in simulator.items() if value is not None]:
        raise ConfigError(
            "only a simulated fleet takes this", where=f"flag {given[0]}", advice="add --source simulator"
        )
    return _libvirt(settings, config, uri, check=check)


def _simulator(settings: AgentSettings, config: Path | None, flags: dict[str, Any]) -> Service:
    from producers.agent.clock import SystemClock
    from producers.simulator.fleet import Fleet
    from producers.simulator.life import Life, parse_phases
    from producers.simulator.runner import SimulatedFleetAgent
    from producers.simulator.settings import SimulatorSettings

    simulator = SimulatorSettings.load(config, os.environ, flags)
    if simulator.truth_file is not None and not simulator.truth_file.parent.is_dir():
        raise ConfigError(
            "there is no such directory", where=f"simulator.truth_file {simulator.truth_file}", advice="create it"
        )
    fleet = Fleet(
        hosts=simulator.hosts,
        vms=simulator.vms,
        seed=simulator.seed,
        clock=SystemClock(),
        started=simulator.started,
    )
    life = Life(fleet, rate=simulator.rate, phases=parse_phases(simulator.life), seed=simulator.seed)
    return SimulatedFleetAgent(settings, fleet, life=life, truth_file=simulator.truth_file)


def _libvirt(settings: AgentSettings, config: Path | None, uri: str | None, *, check: bool) -> Service:
    from producers.agent.service import AgentService
    from producers.agent.source import SourceUnavailable
    from producers.libvirt import open_source

    libvirt = LibvirtSettings.load(config, os.environ, {"uri": uri})
    source = open_source(
        libvirt.uri,
        host_id=None if libvirt.host_id is None else HostId(libvirt.host_id.bytes),
        machine_id=None if libvirt.machine_id is None else MachineId(libvirt.machine_id.bytes),
        boot_id=None if libvirt.boot_id is None else BootId(libvirt.boot_id.bytes),
        run_directory=libvirt.run_directory,
    )
    if check:
        try:
            source.setup()
        except SourceUnavailable as problem:
            raise NeighbourUnreachable(
                str(problem), where=f"libvirt at {libvirt.uri}", advice="start libvirtd, or mend libvirt.uri"
            ) from problem
    return AgentService(settings, source)


def _check(service: Service) -> None:
    """Set up once, without trying again, and give everything back."""
    try:
        service.setup()
    finally:
        service.close()
