"""Builds tables again that were lost, from what is still known of the fleet: the rules of `deltavisor rebuild`.

Per partition of a table, hosts first: a RebuildRow keeps workers out; what is missing is taken in as new incarnations,
in doubt, its hosts asked for everything; outputs, then rows, then the partition's own row, then the RebuildRow goes. A
table that is whole and lacks nothing is left alone. So a rebuild that was killed is simply run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import msgspec

from infra.rebuild.known import Known
from infra.rebuild.tables import Opened, Tables
from schemas.ids import BootId, HostId, VmId, key_of, partition_of
from streams.hosts.core import HostsCore
from streams.hosts.taking_in import KnownHost, host_of
from streams.vms.core import VmsCore
from streams.vms.taking_in import KnownHost as HostOfVms
from streams.vms.taking_in import KnownVm, doubt_hosts, is_missing, take_in

SEALED_VMS = 2_000
"""VMs taken in between two batches: some 20 MB of rows."""
NO_BOOT = BootId(bytes(16))
"""Of a host that only VMs name."""

Subject = TypeVar("Subject", HostId, VmId)
Say = Callable[[str], object]


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A partition of a table as it was found, without its core."""

    stage: str
    partition: int
    loss: str | None
    foreign: bool
    subjects: int
    rebuilding_since: int | None

    @property
    def usable(self) -> bool:
        """True when a worker would take it."""
        return self.loss is None and not self.foreign


class Rebuilt(msgspec.Struct, kw_only=True):
    """What was done."""

    hosts: int = 0
    vms: int = 0
    partitions: int = 0
    offsets: dict[str, dict[int, int]] = {}
    """By stage: where its group goes on, of partitions that were written."""
    vm_heads: dict[bytes, tuple[int, int]] = {}
    """Of every VM in the tables: (incarnation, version)."""
    host_heads: dict[bytes, tuple[int, int]] = {}
    """The same of hosts."""


def look_at_hosts(tables: Tables[HostsCore], partitions: int) -> list[Standing]:
    """How the hosts stage's table is."""
    return [_standing("hosts", one, len(one.core.hosts)) for one in map(tables.open, range(partitions))]


def look_at_vms(tables: Tables[VmsCore], partitions: int) -> tuple[list[Standing], int]:
    """How vm.state is, and the highest generation of host.reports that its clocks have heard of."""
    found, log = [], 0
    for partition in range(partitions):
        one = tables.open(partition)
        found.append(_standing("vms", one, len(one.core.state.vms)))
        log = max([log, *(source.log for source in one.core.state.clock.sources)])
    return found, log


def _standing(stage: str, one: Opened[HostsCore] | Opened[VmsCore], subjects: int) -> Standing:
    return Standing(
        stage=stage,
        partition=one.partition,
        loss=one.loss,
        foreign=one.foreign,
        subjects=subjects,
        rebuilding_since=one.table.rebuilding_since,
    )


def _lacks_host(core: HostsCore, known: KnownHost) -> bool:
    """The table lacks this host, or has an older state of it."""
    host = core.hosts.get(known.host_id)
    return host is None or (host.row.incarnation, host.row.version) < known.order


def begun_at(standings: Iterable[Standing], now_seconds: float) -> int:
    """When the rebuild was begun (ns, whole microseconds): the time of one that was begun before and not finished."""
    open_ = [one.rebuilding_since for one in standings if one.rebuilding_since is not None]
    return min(open_, default=int(now_seconds * 1_000_000) * 1_000)


class Rebuild:
    """One run of it."""

    def __init__(self, known: Known, partitions: int, *, log: int, at: int, say: Say) -> None:
        """`log`: generation of host.reports for tables that do not say it; `at`: see `begun_at`."""
        self._known = known
        self._partitions = partitions
        self._log = log
        self._at = at
        self._say = say
        self.done = Rebuilt()

    def announce(self, tables: Tables[HostsCore] | Tables[VmsCore], standings: Iterable[Standing]) -> None:
        """Keep workers out of every partition that will be built again, before the first is."""
        for one in standings:
            if one.loss is not None:
                tables.begin(one.partition, self._at)

    def hosts(self, tables: Tables[HostsCore]) -> None:
        """Make the hosts stage's table whole."""
        by_partition = self._by_partition(self._known.hosts)
        for partition in range(self._partitions):
            one = tables.open(partition)
            core = one.core
            missing = [
                known
                for known in map(self._known.hosts.__getitem__, by_partition[partition])
                if _lacks_host(core, known)
            ]
            if one.loss is None and not one.foreign and not missing:
                self._see_hosts(core)
                continue
            tables.begin(partition, self._at)
            core.table_start = one.table.start
            if one.table.kept is None:
                core.applied = one.bounds.end - 1
            elif one.foreign:
                core.applied = one.bounds.start - 1
            for known in missing:
                host = host_of(known, self._at)
                if (old := core.hosts.get(known.host_id)) is not None:
                    host.vms = old.vms
                    host.recompute()
                core.take_in(host, self._at)
            core.touch()
            tables.write(partition, core.seal(), last=True)
            self._see_hosts(core)
            self._note(tables, partition, core.applied)
            self.done.hosts += len(missing)
            self._say(f"hosts.table[{partition}]: {len(missing)} hosts taken in, {len(core.hosts)} in all")

    def _see_hosts(self, core: HostsCore) -> None:
        for host_id, host in core.hosts.items():
            self.done.host_heads[host_id] = host.row.incarnation, host.row.version

    def vms(self, tables: Tables[VmsCore]) -> None:
        """Make vm.state whole, and publish what begins anew."""
        by_partition = self._by_partition(self._known.vms)
        for partition in range(self._partitions):
            one = tables.open(partition)
            state = one.core.state
            missing = [
                known for known in map(self._known.vms.__getitem__, by_partition[partition]) if is_missing(state, known)
            ]
            if one.loss is not None or one.foreign or missing:
                self._write_vms(tables, one, missing)
                self._say(f"vm.state[{partition}]: {len(missing)} VMs taken in, {len(state.vms)} in all")
            for vm_id, vm in state.vms.items():
                self.done.vm_heads[vm_id] = vm.incarnation, vm.version

    def _write_vms(self, tables: Tables[VmsCore], one: Opened[VmsCore], missing: list[KnownVm]) -> None:
        core = one.core
        tables.begin(one.partition, self._at)
        core.state.table_start = one.table.start
        if one.table.kept is None:
            core.applied = one.bounds.end - 1
        elif one.foreign:
            core.gap(0, one.bounds.start)
        owners = {vm.host_id for vm in missing if vm.host_id is not None}
        everyone = self._known.hosts.keys() | owners if one.loss is not None else owners
        doubt_hosts(core, [self._host(host_id) for host_id in sorted(everyone)], log=self._log, at=self._at)
        for begin in range(0, len(missing), SEALED_VMS):
            take_in(core, missing[begin : begin + SEALED_VMS], log=self._log, at=self._at)
            tables.write(one.partition, core.seal(), last=False)
        core.touch()
        tables.write(one.partition, core.seal(), last=True)
        self._note(tables, one.partition, core.applied)
        self.done.vms += len(missing)

    def _host(self, host_id: HostId) -> HostOfVms:
        known = self._known.hosts.get(host_id)
        boot = NO_BOOT if known is None else known.boot_id
        return HostOfVms(host_id, boot, partition_of(key_of(host_id), self._partitions))

    def _by_partition(self, ids: Mapping[Subject, object]) -> list[list[Subject]]:
        found: list[list[Subject]] = [[] for _ in range(self._partitions)]
        for raw in sorted(ids):
            found[partition_of(key_of(raw), self._partitions)].append(raw)
        return found

    def _note(self, tables: Tables[HostsCore] | Tables[VmsCore], partition: int, applied: int) -> None:
        self.done.partitions += 1
        self.done.offsets.setdefault(tables.stage.name, {})[partition] = applied + 1
