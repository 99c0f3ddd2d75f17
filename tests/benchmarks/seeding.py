"""The state of a fleet as the vms stage leaves it in its table: rows of the real core, by the real encoders.

A small fleet goes through the real core. The rows of all further VMs are rows of these under ids of their own, since
a million births would take minutes that nobody wants to measure. Pure; `recovery` writes what comes out to Kafka.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from msgspec.structs import replace

from producers.simulator.definitions import derived_id, devices, guest, identity
from schemas.codec import decode, encode, header_of
from schemas.facets import Facet
from schemas.facets.run import Run
from schemas.ids import AgentEpoch, BootId, HostId, VmId, key_of, partition_of, uuid_text
from schemas.observation import HostEvent, HostObservation, ObservationBatch, ReportObservations, VmObservation
from schemas.status import Status
from schemas.vm_state import VmFacet, VmHead
from streams.runtime.outbox import merge_rows
from streams.runtime.sender import PartitionRow
from streams.runtime.stage import Input, Row
from streams.vms.app import VmsStage
from streams.vms.core import VmsCore
from streams.vms.rows import HOST_PREFIX, VmsHostRow

SEED = 11
VMS_PER_HOST = 200
TEMPLATE_HOSTS = 10
"""Hosts of the small fleet; they have more VMs than the window of any compression sees."""
STARTED_AT_NS = 1_760_000_000_000_000_000
_SECOND_NS = 1_000_000_000
_HEAD, _FACET, _HOST = header_of(VmHead), header_of(VmFacet), header_of(VmsHostRow)
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
    """Waves that leave these partitions of a fleet of so many VMs in the table's log, the inputs for them first."""
    stage = VmsStage(partitions, {"vm.observations": topic_id})
    templates = {}
    for partition in sorted(mine):
        wave = _template(stage.loader(partition).finish(), partition, partitions)
        templates[partition] = _Template(wave.rows)
        yield wave
    for host in range(TEMPLATE_HOSTS, (vms + VMS_PER_HOST - 1) // VMS_PER_HOST):
        host_text, boot_text = uuid_text(host_of(host)), uuid_text(boot_of(host))
        rows: dict[int, list[Row]] = {partition: [] for partition in mine}
        for vm in range(host * VMS_PER_HOST, min(vms, (host + 1) * VMS_PER_HOST)):
            text = uuid_text(vm_of(vm))
            partition = partition_of(text.encode(), partitions)
            if partition in mine:
                rows[partition] += templates[partition].vm(vm, text, host_text, boot_text)
        for partition, made in rows.items():
            yield SeededWave(partition, [], [*made, *templates[partition].host(host, host_text)])


class _Template:
    """Rows of a small fleet in one partition, from which those of further VMs and hosts are made."""

    def __init__(self, rows: list[Row]) -> None:
        self._heads = [decode(VmHead, row.value, row.schema) for row in rows if row.value and row.schema == _HEAD]
        self._facets: dict[bytes, list[Row]] = {}
        for row in rows:
            if row.schema == _FACET:
                self._facets.setdefault(row.key[:36], []).append(row)
        [self._host] = [decode(VmsHostRow, row.value, _HOST) for row in rows[-2:-1] if row.value]
        self._partition = rows[-1]

    def vm(self, number: int, text: str, host: str, boot: str) -> list[Row]:
        """Facets, then the head, of another VM on another host."""
        like = self._heads[number % len(self._heads)]
        key = text.encode()
        rows = [
            Row(key + b"/" + host.encode() + row.key[73:], row.value, row.schema)
            for row in self._facets[like.vm_id.encode()]
        ]
        claims = [replace(claim, host_id=host, boot_id=boot) for claim in like.claims]
        head = replace(like, vm_id=text, host_id=host, claims=claims, run_id=uuid_text(derived_id(SEED, "run", number)))
        return [*rows, Row(key, encode(head), _HEAD)]

    def host(self, number: int, text: str) -> list[Row]:
        """The row of a host, and the partition's own once more, which ends every wave."""
        row = replace(self._host, host_id=host_of(number), boot_id=boot_of(number))
        return [Row(HOST_PREFIX + text.encode(), encode(row), _HOST), self._partition]


def _template(core: VmsCore, partition: int, partitions: int) -> SeededWave:
    inputs = []
    for host in range(TEMPLATE_HOSTS):
        observed = []
        for vm in range(host * VMS_PER_HOST, (host + 1) * VMS_PER_HOST):
            vm_id = vm_of(vm)
            if partition_of(key_of(vm_id), partitions) == partition:
                observed.append(VmObservation(vm_id, facets_of(vm)))
        inputs.append(batch_of(host % partitions, host + 1, [report(host, host, observed, first=True)]))
        at = STARTED_AT_NS + host * _SECOND_NS
        core.apply(Input(partition, host, at, None, inputs[-1], header_of(ObservationBatch)))
    rows = merge_rows([PartitionRow(partition, row) for row in core.seal().rows])
    return SeededWave(partition, inputs, [one.row for one in rows])
