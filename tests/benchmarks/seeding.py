"""The state of a fleet as the vms stage itself leaves it: real reports, the real core, the real rows.

Pure; `recovery` writes what comes out to Kafka.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from producers.simulator.definitions import derived_id, devices, guest, identity
from schemas.codec import encode, header_of
from schemas.facets import Facet
from schemas.facets.run import Run
from schemas.ids import AgentEpoch, BootId, HostId, VmId, key_of, partition_of
from schemas.observation import HostEvent, HostObservation, ObservationBatch, ReportObservations, VmObservation
from schemas.status import Status
from streams.runtime.outbox import merge_rows
from streams.runtime.sender import PartitionRow
from streams.runtime.stage import Input, Row
from streams.vms.app import VmsStage

SEED = 11
VMS_PER_HOST = 200
INPUTS_PER_WAVE = 20
STARTED_AT_NS = 1_760_000_000_000_000_000
_SECOND_NS = 1_000_000_000
_ALIVE = (HostObservation(HostEvent.BACK), HostObservation(HostEvent.CONFIRMED))


class SeededWave(NamedTuple):
    """Some inputs of one partition, in order, and the rows that the stage wrote for them."""

    partition: int
    inputs: list[bytes]
    rows: list[Row]


def host_of(number: int) -> HostId:
    """Id of a host by its number."""
    return HostId(derived_id(SEED, "host", number))


def boot_of(number: int) -> BootId:
    """Its boot."""
    return BootId(derived_id(SEED, "boot", number))


def vm_of(number: int) -> VmId:
    """Id of a VM by its number."""
    return VmId(derived_id(SEED, "vm", number))


def facets_of(vm: int, status: Status = Status.UP) -> dict[str, bytes]:
    """What an agent says of a running VM: four facets."""
    started_at = STARTED_AT_NS + vm * 1_000_000
    run = Run(status=status, since=started_at, process_id=f"{4_000 + vm}", started_at=started_at)
    guest_facet = guest(vm, 0, connected=True, seen_at=started_at)
    told = {Facet.IDENTITY: identity(vm), Facet.RUN: run, Facet.GUEST: guest_facet, Facet.DEVICES: devices(vm, ())}
    return {facet.value: encode(value) for facet, value in told.items()}


def report(host: int, offset: int, vms: list[VmObservation], *, first: bool = False) -> ReportObservations:
    """One report of a host; the first one says that it is back and what it has."""
    at = STARTED_AT_NS + offset * _SECOND_NS
    return ReportObservations(
        offset,
        at,
        at,
        host_of(host),
        boot_of(host),
        AgentEpoch(boot_of(host)),
        1 if first else 2,
        vms,
        [vm.vm_id for vm in vms] if first else None,
        list(_ALIVE) if first else [],
    )


def batch_of(source: int, tick: int, reports: list[ReportObservations]) -> bytes:
    """An input of the vms stage."""
    return encode(
        ObservationBatch(
            source=source,
            log=0,
            tick=tick,
            tick_at=STARTED_AT_NS + tick * _SECOND_NS,
            rules_version=1,
            reports=reports,
        )
    )


def seeded(vms: int, partitions: int, mine: frozenset[int], topic_id: str) -> Iterator[SeededWave]:
    """Waves that leave these partitions of a fleet of so many VMs in memory and in the table's log."""
    stage = VmsStage(partitions, {"vm.observations": topic_id})
    cores = {partition: stage.loader(partition).finish() for partition in mine}
    waiting: dict[int, list[bytes]] = {partition: [] for partition in mine}
    for host in range((vms + VMS_PER_HOST - 1) // VMS_PER_HOST):
        for partition, observed in _of_host(host, vms, partitions, mine).items():
            core, inputs = cores[partition], waiting[partition]
            offset = core.applied + 1
            inputs.append(batch_of(host % partitions, host + 1, [report(host, host, observed, first=True)]))
            at = STARTED_AT_NS + host * _SECOND_NS
            core.apply(Input(partition, offset, at, None, inputs[-1], header_of(ObservationBatch)))
            if len(inputs) >= INPUTS_PER_WAVE:
                yield SeededWave(partition, inputs, [one.row for one in merge_rows(_sealed(core, partition))])
                waiting[partition] = []
    for partition, inputs in waiting.items():
        if inputs:
            yield SeededWave(partition, inputs, [one.row for one in merge_rows(_sealed(cores[partition], partition))])


def _sealed(core: object, partition: int) -> list[PartitionRow]:
    return [PartitionRow(partition, row) for row in core.seal().rows]  # type: ignore[attr-defined]


def _of_host(host: int, vms: int, partitions: int, mine: frozenset[int]) -> dict[int, list[VmObservation]]:
    """What a host says to each of these partitions; to those that have none of its VMs, that it is there."""
    observed: dict[int, list[VmObservation]] = {partition: [] for partition in mine}
    for vm in range(host * VMS_PER_HOST, min(vms, (host + 1) * VMS_PER_HOST)):
        vm_id = vm_of(vm)
        partition = partition_of(key_of(vm_id), partitions)
        if partition in mine:
            observed[partition].append(VmObservation(vm_id, facets_of(vm)))
    return observed
