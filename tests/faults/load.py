"""A fleet that reports fast and keeps book: what Kafka accepted, at which offset, in which order, per VM.

Agents of this fleet only ever change facets of VMs that run, each time to a value that it never had, so the history
that must come out of the line is the book itself: one version per entry, in its order, and nothing else.
"""

from __future__ import annotations

import random
import threading
import time
from array import array
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self

import msgspec
from confluent_kafka import KafkaError, Message

from infra.runtime.kafka import make_producer
from infra.runtime.settings import KafkaSettings
from infra.runtime.topics import HOST_REPORTS, TopicSet
from schemas.codec import SCHEMA_HEADER, encode, header_of
from schemas.facets import Facet
from schemas.facets.console import Console
from schemas.facets.guest import Guest
from schemas.facets.identity import Identity
from schemas.facets.run import Run
from schemas.fingerprints import U64, low64, raw_fingerprint
from schemas.ids import AgentEpoch, BootId, HostId, MachineId, SnapshotId, VmId, key_of, partition_of, uuid_text
from schemas.report import Changes, HostReport, SnapshotPart, VmFacets
from schemas.status import PauseReason, Status

OFFSET_BITS = 48
QUIET_REPORT_SECONDS = 2.0
"""Between two reports of a host that has nothing to say; an agent's own heartbeat is every five seconds."""
BURST_SECONDS = 0.02

_facet = msgspec.msgpack.Encoder().encode


class LoadShape(NamedTuple):
    """How large the fleet is and how fast it changes."""

    hosts: int = 16
    vms_per_host: int = 100
    changes_per_report: int = 20
    changes_per_second: float = 2_200.0


USUAL = LoadShape()


def place(partition: int, offset: int) -> int:
    """Partition and offset as one number."""
    return partition << OFFSET_BITS | offset


class VmBook:
    """One VM: the facets it has now, and where each of its changes stands in the log, in order."""

    __slots__ = ("accepted", "facets", "text", "vm_id")

    def __init__(self, vm_id: VmId) -> None:
        self.vm_id = vm_id
        self.text = uuid_text(vm_id)
        self.facets: dict[str, bytes] = {}
        self.accepted = array("q")


class HostBook:
    """One host's agent: its digest, its numbering, its VMs."""

    def __init__(self, number: int, host_id: HostId, partition: int, chance: random.Random, vms: int) -> None:
        self.host_id = host_id
        self.key = key_of(host_id)
        self.partition = partition
        self.machine_id = MachineId(chance.randbytes(16))
        self.boot_id = BootId(chance.randbytes(16))
        self.epoch = AgentEpoch(chance.randbytes(16))
        self.seq = 0
        self.digest = 0
        self.spoke_at = 0.0
        self.vms = [VmBook(VmId(chance.randbytes(16))) for _ in range(vms)]
        self.number = number

    def change(self, vm: VmBook, facets: dict[str, bytes]) -> VmFacets:
        """The VM has these facets from now on."""
        for name, data in facets.items():
            if (old := vm.facets.get(name)) is not None:
                self.digest -= low64(raw_fingerprint(vm.vm_id, name, old))
            self.digest += low64(raw_fingerprint(vm.vm_id, name, data))
            vm.facets[name] = data
        self.digest &= U64
        return VmFacets(vm_id=vm.vm_id, facets=facets)

    def report(self, body: Changes | SnapshotPart) -> bytes:
        """The next report with this body."""
        self.seq += 1
        now = time.time_ns() // 1000 * 1000
        monotonic = time.monotonic_ns()
        self.spoke_at = time.monotonic()
        return encode(
            HostReport(
                host_id=self.host_id,
                machine_id=self.machine_id,
                boot_id=self.boot_id,
                agent_epoch=self.epoch,
                seq=self.seq,
                observed_at=now,
                observed_monotonic_ns=monotonic,
                sent_at=now,
                sent_monotonic_ns=monotonic,
                vm_count=len(self.vms),
                digest=self.digest,
                body=body,
            )
        )


class Load:
    """Writes reports in a thread of its own until closed; use as a context."""

    def __init__(self, kafka: KafkaSettings, topics: TopicSet, shape: LoadShape = USUAL, seed: int = 1) -> None:
        self.shape = shape
        self.accepted_changes = 0
        self.refused: list[str] = []
        self._chance = random.Random(seed)
        self._topic = topics.name(HOST_REPORTS)
        self._hosts = [self._host(number, topics.partitions) for number in range(shape.hosts)]
        self._producer = make_producer(kafka, linger_ms=5, delivery_timeout_ms=600_000)
        self._counter = 0
        self._running = threading.Event()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load")

    def _host(self, number: int, partitions: int) -> HostBook:
        """Hosts take the partitions in turn, so that the load is spread evenly."""
        while True:
            host_id = HostId(self._chance.randbytes(16))
            partition = partition_of(key_of(host_id), partitions)
            if partition == number % partitions:
                return HostBook(number, host_id, partition, self._chance, self.shape.vms_per_host)

    def __enter__(self) -> Self:
        for host in self._hosts:
            self._introduce(host)
        self._flush()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=60)
        if error is None:
            self.check()

    def resume(self) -> None:
        """Change things from now on."""
        self._running.set()

    def pause(self) -> None:
        """Only heartbeats from now on; everything said so far is accepted when this returns."""
        self._running.clear()
        time.sleep(5 * BURST_SECONDS)
        self._flush()
        self.check()

    def check(self) -> None:
        """Raise what went wrong in the thread, or what Kafka refused."""
        if self._failure is not None:
            raise AssertionError("the load failed") from self._failure
        assert self.refused == []

    def books(self) -> Iterator[tuple[HostBook, VmBook]]:
        """Every VM with its host. Complete only while paused."""
        for host in self._hosts:
            for vm in host.vms:
                yield host, vm

    @property
    def hosts(self) -> int:
        """How many hosts report."""
        return len(self._hosts)

    def _flush(self) -> None:
        assert self._producer.flush(120) == 0, "Kafka does not accept the reports"

    def _run(self) -> None:
        try:
            began_at, due = time.monotonic(), 0.0
            while not self._stop.wait(BURST_SECONDS):
                now = time.monotonic()
                if self._running.is_set():
                    due += (now - began_at) * self.shape.changes_per_second / self.shape.changes_per_report
                    while due >= 1.0:
                        self._change(self._hosts[self._chance.randrange(len(self._hosts))])
                        due -= 1.0
                began_at = now
                for host in self._hosts:
                    if now - host.spoke_at > QUIET_REPORT_SECONDS:
                        self._send(host, host.report(Changes()), ())
                self._producer.poll(0)
            self._flush()
        except BaseException as error:
            self._failure = error

    def _introduce(self, host: HostBook) -> None:
        whole = []
        for number, vm in enumerate(host.vms):
            facets = {
                Facet.IDENTITY.value: _facet(Identity(name=f"vm-{host.number}-{number}", vcpus=2, persistent=True)),
                Facet.RUN.value: _facet(_running(host, number)),
                Facet.GUEST.value: _facet(Guest(agent_connected=True, fqdn="new")),
            }
            whole.append(host.change(vm, facets))
        body = SnapshotPart(
            snapshot_id=SnapshotId(self._chance.randbytes(16)),
            part=1,
            parts=1,
            vms=whole,
            inventory=[vm.vm_id for vm in host.vms],
        )
        self._send(host, host.report(body), host.vms)

    def _change(self, host: HostBook) -> None:
        changed = self._chance.sample(range(len(host.vms)), self.shape.changes_per_report)
        vms = [host.vms[number] for number in changed]
        said = [host.change(vm, self._next(host, number)) for number, vm in zip(changed, vms, strict=True)]
        self._send(host, host.report(Changes(vms=said)), vms)

    def _next(self, host: HostBook, number: int) -> dict[str, bytes]:
        """Something this VM never had before; one change in ten is of its status."""
        self._counter += 1
        kind = self._counter % 10
        facets = {Facet.GUEST.value: _facet(Guest(agent_connected=True, fqdn=f"g{self._counter}"))}
        if kind < 2:
            facets[Facet.CONSOLE.value] = _facet(Console(client_ip=f"c{self._counter}"))
        if kind == 5:
            paused = Run(status=Status.PAUSED, pause_reason=PauseReason.USER, process_id=f"{host.number}-{number}")
            facets[Facet.RUN.value] = _facet(paused)
        elif kind == 7:
            facets[Facet.RUN.value] = _facet(_running(host, number))
        return facets

    def _send(self, host: HostBook, value: bytes, vms: tuple[VmBook, ...] | list[VmBook]) -> None:
        def accepted(error: KafkaError | None, message: Message) -> None:
            partition, offset = message.partition(), message.offset()
            if error is not None or partition != host.partition or offset is None:
                self.refused.append(f"{error} {partition} {offset}")
                return
            at = place(partition, offset)
            for vm in vms:
                vm.accepted.append(at)
            self.accepted_changes += len(vms)

        self._producer.produce(
            self._topic,
            value,
            host.key,
            host.partition,
            headers=[(SCHEMA_HEADER, header_of(HostReport))],
            on_delivery=accepted,
        )


def _running(host: HostBook, number: int) -> Run:
    return Run(status=Status.UP, process_id=f"{host.number}-{number}")
