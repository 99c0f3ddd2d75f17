"""What reports cost the hosts stage: heartbeats, small changes, and facets through the gate, with a real Kafka.

Each phase writes reports of a fleet whose digests are right, as fast as Kafka takes them, and waits until the worker
has committed them. CPU time is the worker process's own, by the operating system, its ticks and idle loops included.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import TopicPartition

from infra.runtime.kafka import make_consumer, make_producer
from infra.runtime.settings import KafkaSettings, TopicSettings
from infra.runtime.topics import (
    ALL_TOPICS,
    DEAD_LETTERS,
    HOST_CHANGES,
    HOST_REPORTS,
    HOST_STATE,
    HOSTS_TABLE,
    RESYNC_REQUESTS,
    VM_OBSERVATIONS,
    TopicAdmin,
)
from infra.stack.settings import StackSettings
from infra.stack.stack import Stack
from producers.simulator.definitions import derived_id, guest
from schemas.codec import SCHEMA_HEADER, encode, header_of
from schemas.facets import Facet
from schemas.facets.run import Run
from schemas.fingerprints import U64, low64, raw_fingerprint
from schemas.ids import AgentEpoch, MachineId, SnapshotId, key_of
from schemas.report import Changes, HostReport, SnapshotPart, VmFacets
from schemas.status import Status
from tests.benchmarks import seeding
from tests.benchmarks.measured import result, say
from tests.benchmarks.stage_worker import StageWorker

HOSTS = int(os.environ.get("BENCH_HOSTS", "100"))
PARTITIONS = 4
PREFIX = "hosts."
GROUP = f"{PREFIX}deltavisor-hosts"
HEARTBEATS = 200
"""Per host."""
SMALL_CHANGES = 200
SNAPSHOTS = 5
BULK_REPORTS, BULK_VMS = 5, 50
DEADLINE_SECONDS = 300.0
OUTPUTS = (VM_OBSERVATIONS, HOSTS_TABLE, HOST_CHANGES, HOST_STATE)
MUST_STAY_EMPTY = (RESYNC_REQUESTS, DEAD_LETTERS)
"""A digest that is wrong would be asked about, a report that is wrong put aside: then the figures were of something
else."""


class Speaker:
    """One host: what it has said, and its next report."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._vms = range(number * seeding.VMS_PER_HOST, (number + 1) * seeding.VMS_PER_HOST)
        self._facets = {vm: seeding.facets_of(vm) for vm in self._vms}
        self._marks = {(vm, name): self._mark(vm, name) for vm in self._vms for name in self._facets[vm]}
        self._digest = sum(self._marks.values()) & U64
        self._seq = 0
        self._turn = 0
        self.key = key_of(seeding.host_of(number))

    def snapshot(self) -> bytes:
        """Everything, whole."""
        vms = [VmFacets(vm_id=seeding.vm_of(vm), facets=facets) for vm, facets in self._facets.items()]
        identity = SnapshotId(derived_id(seeding.SEED, "snapshot", self._number, self._seq))
        inventory = [seeding.vm_of(vm) for vm in self._vms]
        return self._say(SnapshotPart(snapshot_id=identity, part=1, parts=1, vms=vms, inventory=inventory))

    def heartbeat(self) -> bytes:
        """Nothing new."""
        return self._say(Changes())

    def change(self, count: int, *names: Facet) -> bytes:
        """These facets of the next so many VMs are others than before."""
        self._turn += 1
        vms = []
        for at in range(count):
            vm = self._vms[(self._turn * count + at) % len(self._vms)]
            changed = {name.value: self._other(vm, name) for name in names}
            self._facets[vm].update(changed)
            for name in changed:
                mark = self._mark(vm, name)
                self._digest = (self._digest + mark - self._marks[vm, name]) & U64
                self._marks[vm, name] = mark
            vms.append(VmFacets(vm_id=seeding.vm_of(vm), facets=changed))
        return self._say(Changes(vms=vms))

    def _other(self, vm: int, name: Facet) -> bytes:
        at = seeding.STARTED_AT_NS + self._seq
        if name is Facet.GUEST:
            return encode(guest(vm, 1 + self._seq, connected=True, seen_at=at))
        return encode(Run(status=(Status.UP, Status.PAUSED)[self._turn % 2], since=at, process_id=f"{4_000 + vm}"))

    def _mark(self, vm: int, name: str) -> int:
        return low64(raw_fingerprint(seeding.vm_of(vm), name, self._facets[vm][name]))

    def _say(self, body: Changes | SnapshotPart) -> bytes:
        self._seq += 1
        now = time.time_ns()
        return encode(
            HostReport(
                host_id=seeding.host_of(self._number),
                machine_id=MachineId(derived_id(seeding.SEED, "machine", self._number)),
                boot_id=seeding.boot_of(self._number),
                agent_epoch=AgentEpoch(derived_id(seeding.SEED, "epoch", self._number)),
                seq=self._seq,
                observed_at=now,
                observed_monotonic_ns=now,
                sent_at=now,
                sent_monotonic_ns=now,
                vm_count=len(self._vms),
                digest=self._digest,
                body=body,
            )
        )


class Log:
    """The topics of the benchmark."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._producer = make_producer(kafka, queue_buffering_max_messages=200_000)
        self._consumer = make_consumer(kafka, group_id=GROUP)

    def write(self, reports: list[tuple[bytes, bytes]]) -> None:
        """Write these (key, report), in their order."""
        headers = [(SCHEMA_HEADER, header_of(HostReport))]
        for key, value in reports:
            while len(self._producer) > 150_000:
                self._producer.poll(0.01)
            self._producer.produce(PREFIX + HOST_REPORTS, value, key, headers=headers)
        assert self._producer.flush(60) == 0

    def ends(self, topic: str) -> dict[int, int]:
        """Where the partitions of a topic end."""
        found = {}
        for partition in range(PARTITIONS):
            bounds = self._consumer.get_watermark_offsets(TopicPartition(PREFIX + topic, partition), timeout=30)
            assert bounds is not None
            found[partition] = int(bounds[1])
        return found

    def wait_committed(self, worker: StageWorker) -> None:
        """Until the worker has committed everything that is in host.reports now."""
        ends = self.ends(HOST_REPORTS)
        asked = [TopicPartition(PREFIX + HOST_REPORTS, partition) for partition in ends]
        deadline = time.monotonic() + DEADLINE_SECONDS
        while any(place.offset < ends[place.partition] for place in self._consumer.committed(asked, timeout=30)):
            worker.require_alive()
            assert time.monotonic() < deadline, f"not all reports were applied in {DEADLINE_SECONDS:.0f} s"
            time.sleep(0.05)

    def volume(self, topic: str, begins: dict[int, int], ends: dict[int, int]) -> tuple[int, int]:
        """Records and bytes of values between these offsets."""
        left = {partition: end for partition, end in ends.items() if end > begins[partition]}
        consumer = make_consumer(self._kafka, group_id=f"{PREFIX}reader", fetch_wait_max_ms=20)
        consumer.assign([TopicPartition(PREFIX + topic, partition, begins[partition]) for partition in left])
        records = size = 0
        try:
            while left:
                for message in consumer.consume(1_000, 0.1):
                    partition, offset = message.partition(), message.offset()
                    if message.error() is None and offset is not None and offset < left.get(partition or 0, 0):
                        records += 1
                        size += len(message.value() or b"")
                for place in consumer.position([TopicPartition(PREFIX + topic, partition) for partition in left]):
                    if place.offset >= left[place.partition]:
                        del left[place.partition]
        finally:
            consumer.close()
        return records, size


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of report."""

    name: str
    reports: list[tuple[bytes, bytes]]
    facets: int = 0


def phases(speakers: list[Speaker]) -> Iterator[Phase]:
    """In the order in which they are said; each made when the one before is over."""
    vms = len(speakers) * seeding.VMS_PER_HOST
    yield Phase(name="first_snapshots", reports=[(one.key, one.snapshot()) for one in speakers], facets=4 * vms)
    beats = [(one.key, one.heartbeat()) for _ in range(HEARTBEATS) for one in speakers]
    yield Phase(name="heartbeats", reports=beats)
    small = [(one.key, one.change(1, Facet.RUN)) for _ in range(SMALL_CHANGES) for one in speakers]
    yield Phase(name="small_changes", reports=small, facets=len(small))
    equal = [(one.key, one.snapshot()) for _ in range(SNAPSHOTS) for one in speakers]
    yield Phase(name="unchanged_snapshots", reports=equal, facets=4 * SNAPSHOTS * vms)
    bulk = [(one.key, one.change(BULK_VMS, Facet.RUN, Facet.GUEST)) for _ in range(BULK_REPORTS) for one in speakers]
    yield Phase(name="bulk_changes", reports=bulk, facets=2 * BULK_VMS * len(bulk))


def measure(log: Log, worker: StageWorker, phase: Phase) -> dict[str, Any]:
    """Write a phase's reports and see what they cost."""
    begins = {topic: log.ends(topic) for topic in OUTPUTS}
    spent, began_at = worker.cpu_seconds(), time.monotonic()
    log.write(phase.reports)
    log.wait_committed(worker)
    seconds, cpu = time.monotonic() - began_at, worker.cpu_seconds() - spent
    volumes = {topic: log.volume(topic, begins[topic], log.ends(topic)) for topic in OUTPUTS}
    count = len(phase.reports)
    found = {
        "reports": count,
        "facets": phase.facets,
        "cpu_seconds": round(cpu, 2),
        "seconds": round(seconds, 2),
        "reports_per_core_second": round(count / cpu),
        "facets_per_core_second": round(phase.facets / cpu),
        "bytes_per_report": round(sum(len(value) for _, value in phase.reports) / count),
        "records_out_per_report": {topic: round(records / count, 3) for topic, (records, _) in volumes.items()},
        "bytes_out_per_report": {topic: round(size / count, 1) for topic, (_, size) in volumes.items()},
    }
    say(
        f"{phase.name}: {found['reports_per_core_second']} reports, {found['facets_per_core_second']} facets per core-s"
    )
    return found


def main() -> None:
    """Run it and print the figures."""
    stack = Stack(f"bench-hosts-{os.getpid()}", settings=StackSettings())
    say("starting Kafka")
    endpoints = stack.up(services={"kafka"})
    try:
        kafka = KafkaSettings(bootstrap=endpoints.kafka, topic_prefix=PREFIX)
        TopicAdmin(kafka, TopicSettings(partitions=PARTITIONS)).apply(ALL_TOPICS)
        with tempfile.TemporaryDirectory() as folder:
            worker = StageWorker("hosts", kafka, Path(folder), name="w0", partitions=PARTITIONS)
            try:
                worker.wait_loaded(60)
                log = Log(kafka)
                found = {one.name: measure(log, worker, one) for one in phases([Speaker(at) for at in range(HOSTS)])}
                load_average = os.getloadavg()[0]
                doubts = {topic: sum(log.ends(topic).values()) for topic in MUST_STAY_EMPTY}
                assert not any(doubts.values()), f"the stage doubted what it was told: {doubts}"
            finally:
                worker.kill()
    finally:
        stack.reset()
    both = [found["heartbeats"], found["small_changes"]]
    result(
        "hosts",
        {
            "reports_per_core_second": round(
                sum(one["reports"] for one in both) / sum(one["cpu_seconds"] for one in both)
            ),
            "heartbeats_per_core_second": found["heartbeats"]["reports_per_core_second"],
            "small_changes_per_core_second": found["small_changes"]["reports_per_core_second"],
            "unchanged_facets_per_core_second": found["unchanged_snapshots"]["facets_per_core_second"],
            "changed_facets_per_core_second": found["bulk_changes"]["facets_per_core_second"],
            "hosts": HOSTS,
            "vms": HOSTS * seeding.VMS_PER_HOST,
            "phases": found,
            "load_average": round(load_average, 2),
        },
    )


if __name__ == "__main__":
    main()
