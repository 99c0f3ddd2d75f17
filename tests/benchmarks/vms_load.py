"""The input of the vms benchmark: what a simulated fleet's hosts say of VMs, as the hosts stage passes it on.

Each VM changes one facet at a time, in the shares in which the simulator does it: the guest 30 %, run 30 % (paused and
resumed), console 20 %, devices 20 %. Facets are the simulator's own, so sizes are those of the real line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Final

import msgspec

from producers.simulator.definitions import console, derived_id, devices, guest, identity
from schemas.codec import encode
from schemas.facets.run import Run
from schemas.ids import AgentEpoch, BootId, HostId, VmId, key_of, partition_of
from schemas.observation import HostEvent, HostObservation, ObservationBatch, ReportObservations, VmObservation
from schemas.status import PauseReason, Status

START_NS: Final = 1_700_000_000_000_000_000
SECOND_NS: Final = 1_000_000_000
MIX: Final = ("guest", "run", "console", "guest", "run", "devices", "guest", "run", "console", "devices")
SEED: Final = 1


class LoadedVm:
    """A VM whose facets change."""

    __slots__ = ("client", "host", "id", "lease", "number", "paused", "plugged", "turn")

    def __init__(self, number: int, vm_id: VmId, host: int) -> None:
        self.number = number
        self.id = vm_id
        self.host = host
        self.lease = self.client = 0
        self.paused = False
        self.plugged: tuple[int, ...] = ()
        self.turn = number

    def facet(self, name: str, at: int) -> msgspec.Struct:
        """As it is now."""
        match name:
            case "run":
                return Run(
                    status=Status.PAUSED if self.paused else Status.UP,
                    pause_reason=PauseReason.USER if self.paused else None,
                    since=at,
                    process_id=f"{self.number}:1",
                    started_at=START_NS,
                )
            case "guest":
                return guest(self.number, self.lease, connected=True, seen_at=at)
            case "console":
                return console(self.number, self.host, self.client, at if self.client else None)
            case "devices":
                return devices(self.number, self.plugged)
            case _:
                return identity(self.number)

    def change(self, at: int, mix: Sequence[str]) -> VmObservation:
        """The next change of one of its facets."""
        name = mix[self.turn % len(mix)]
        self.turn += 1
        self.lease += 1
        if name == "run":
            self.paused = not self.paused
        elif name == "console":
            self.client = 0 if self.client else 1 + self.lease % 60_000
        elif name == "devices":
            self.plugged = () if self.plugged else (1,)
        return VmObservation(self.id, {name: encode(self.facet(name, at))})


class Load:
    """The fleet, and what its hosts say next. Partition p of the hosts has the hosts whose index modulo P is p."""

    def __init__(self, *, partitions: int, hosts: int, vms: int, mix: Sequence[str] = MIX) -> None:
        self.partitions = partitions
        self.hosts = [HostId(derived_id(SEED, "host", index)) for index in range(hosts)]
        self.boots = [BootId(derived_id(SEED, "boot", index)) for index in range(hosts)]
        self.epoch = AgentEpoch(derived_id(SEED, "epoch"))
        self.offsets = [0] * partitions
        self.seqs = [0] * hosts
        self.ticks = 0
        self.now = START_NS
        self._mix = mix
        self._random = Random(SEED)
        found = [LoadedVm(number, VmId(derived_id(SEED, "vm", number)), number % hosts) for number in range(vms)]
        self.vms: dict[tuple[int, int], list[LoadedVm]] = {}
        """By partition of the VM and host."""
        for vm in found:
            self.vms.setdefault((partition_of(key_of(vm.id), partitions), vm.host), []).append(vm)
        self._next = dict.fromkeys(self.vms, 0)
        self._sources = {
            (partition, source): [host for host in range(hosts) if host % partitions == source and
                                  (partition, host) in self.vms]
            for partition in range(partitions)
            for source in range(partitions)
        }  # fmt: skip
        self._turns: dict[tuple[int, int], int] = dict.fromkeys(self._sources, 0)

    def introduction(self, partition: int) -> Iterator[bytes]:
        """Batches after which every VM of this partition is known and believed: a snapshot of each host."""
        for host in range(len(self.hosts)):
            vms = self.vms.get((partition, host), [])
            names = ("identity", "run", "guest", "console", "devices")
            whole = [VmObservation(vm.id, {name: encode(vm.facet(name, self.now)) for name in names}) for vm in vms]
            events = [HostObservation(HostEvent.BACK), HostObservation(HostEvent.CONFIRMED)]
            report = self._report(host, whole, inventory=[vm.id for vm in vms], events=events)
            yield self._batch(host % self.partitions, [report])
        yield from self.clock()

    def clock(self) -> Iterator[bytes]:
        """A second passes: the tick of every hosts partition, for one vms partition."""
        self.ticks += 1
        self.now += SECOND_NS
        for source in range(self.partitions):
            yield self._batch(source, [])

    def batch(self, partition: int, source: int, changes: int, per_report: int) -> bytes:
        """One input record for this partition: so many changes, in reports of `per_report` VMs of one host each."""
        reports = []
        while changes > 0:
            count = min(per_report, changes)
            changes -= count
            self.now += 1_000_000
            reports.append(self._changes_of(partition, source, count))
        return self._batch(source, reports)

    def _changes_of(self, partition: int, source: int, count: int) -> ReportObservations:
        hosts = self._sources[partition, source]
        turn = self._turns[partition, source] = self._turns[partition, source] + 1
        host = hosts[turn % len(hosts)]
        place = partition, host
        vms, first = self.vms[place], self._next[place]
        chosen = [vms[(first + step) % len(vms)] for step in range(count)]
        self._next[place] = (first + count) % len(vms)
        return self._report(host, [vm.change(self.now, self._mix) for vm in chosen])

    def _report(
        self,
        host: int,
        vms: list[VmObservation],
        *,
        inventory: list[VmId] | None = None,
        events: list[HostObservation] | None = None,
    ) -> ReportObservations:
        source = host % self.partitions
        self.offsets[source] += 1
        self.seqs[host] += 1
        return ReportObservations(
            self.offsets[source],
            self.now,
            self.now,
            self.hosts[host],
            self.boots[host],
            self.epoch,
            self.seqs[host],
            vms,
            inventory,
            events or [],
        )

    def _batch(self, source: int, reports: list[ReportObservations]) -> bytes:
        batch = ObservationBatch(
            source=source, log=0, tick=self.ticks, tick_at=self.now, rules_version=1, reports=reports
        )
        return encode(batch)
