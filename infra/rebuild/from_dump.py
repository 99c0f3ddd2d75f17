"""Between tables and dumps: cores to rows, rows to cores, and what a dump knows of the fleet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from infra.rebuild.dump import Header, Rows, read_dump
from infra.rebuild.known import Known
from infra.runtime.errors import ConfigError
from infra.runtime.topics import HOST_REPORTS, VM_OBSERVATIONS
from schemas.codec import RecordError
from streams.hosts.app import TOPICS
from streams.hosts.core import HostsConfig, HostsCore
from streams.hosts.loader import HostsLoader
from streams.hosts.state import reachability
from streams.hosts.taking_in import KnownHost
from streams.runtime.stage import Row
from streams.vms.core import VmsCore
from streams.vms.facets import NAMES, value_of
from streams.vms.loading import VmsLoader
from streams.vms.rows import seal
from streams.vms.state import Vm
from streams.vms.taking_in import KnownVm
from streams.vms.turn import shown_facets

HOSTS, VMS = "hosts", "vms"


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """One partition of a dump."""

    stage: str
    partition: int
    core: HostsCore | VmsCore


def rows_of_hosts(core: HostsCore) -> list[Row]:
    """The table of a partition of the hosts stage."""
    return core.table_rows()


def rows_of_vms(core: VmsCore) -> list[Row]:
    """The table of a partition of the vms stage: facets, heads, hosts, the partition's own row."""
    state = core.state
    state.dirty_hosts = dict.fromkeys(state.hosts)
    state.dirty_heads = dict.fromkeys(state.vms)
    state.dirty_facets = {
        (vm.id, claim.host, slot): None
        for vm in state.vms.values()
        for claim in vm.claims
        for slot, packed in enumerate(claim.facets)
        if packed is not None and value_of(packed)
    }
    state.deletable_facets = {}
    return seal(state).rows


def load_dump(path: Path) -> tuple[Header, Iterator[Loaded]]:
    """The cores of a dump, partition by partition. Raises ConfigError for a bad file or rows that nobody can load."""
    header, rows = read_dump(path)
    return header, _cores(path, header, rows)


def _cores(path: Path, header: Header, frames: Iterable[Rows]) -> Iterator[Loaded]:
    loader: HostsLoader | VmsLoader | None = None
    place: tuple[str, int] | None = None
    try:
        for frame in frames:
            if (frame.stage, frame.partition) != place:
                if loader is not None and place is not None:
                    yield Loaded(stage=place[0], partition=place[1], core=loader.finish())
                place = frame.stage, frame.partition
                loader = _loader(path, header, *place)
            if loader is not None:
                for row in frame.rows:
                    loader.add(*row)
        if loader is not None and place is not None:
            yield Loaded(stage=place[0], partition=place[1], core=loader.finish())
    except RecordError as problem:
        raise ConfigError(f"the dump can not be loaded: {problem}", where=str(path)) from problem


def _loader(path: Path, header: Header, stage: str, partition: int) -> HostsLoader | VmsLoader:
    if stage == VMS:
        return VmsLoader(partition, header.partitions, {VM_OBSERVATIONS: header.topic_ids.get(VM_OBSERVATIONS, "")})
    if stage != HOSTS:
        raise ConfigError(f"the dump has a table of {stage[:50]!r}", where=str(path), advice="use the newer program")
    config = HostsConfig(
        topics=TOPICS,
        partitions=header.partitions,
        tick_secret=b"",
        reports_topic_id=header.topic_ids.get(HOST_REPORTS, ""),
    )
    return HostsLoader(config, partition)


def read_fleet(path: Path, known: Known) -> Header:
    """Add everything that a dump knows. Raises ConfigError."""
    header, loaded = load_dump(path)
    for one in loaded:
        if isinstance(one.core, HostsCore):
            _add_hosts(one.core, known)
        else:
            for vm in one.core.state.vms.values():
                known.add_vm(_known_vm(vm))
            known.log = max([known.log, *(source.log for source in one.core.state.clock.sources)])
    return header


def _add_hosts(core: HostsCore, known: Known) -> None:
    known.log = max(known.log, core.log)
    for host_id, host in core.hosts.items():
        row = host.row
        if row.version:
            known.add_host(
                KnownHost(
                    host_id=host_id,
                    machine_id=row.machine_id,
                    boot_id=row.boot_id,
                    agent_epoch=row.agent_epoch,
                    incarnation=row.incarnation,
                    version=row.version,
                    reachability=reachability(row),
                    facets={name: facet.value for name, facet in row.facets.items()},
                )
            )


def _known_vm(vm: Vm) -> KnownVm:
    facets = {
        name: value_of(packed)
        for name, packed in zip(NAMES, shown_facets(vm), strict=True)
        if packed is not None and value_of(packed)
    }
    return KnownVm(
        vm_id=vm.id,
        incarnation=vm.incarnation,
        version=vm.version,
        status=vm.status,
        host_id=vm.owner,
        ownership_epoch=vm.epoch,
        run_id=vm.run_id,
        exit=vm.exit,
        observed_at=vm.observed_at,
        detected_at=vm.detected_at,
        facets=facets,
        managed=vm.managed or {},
    )
