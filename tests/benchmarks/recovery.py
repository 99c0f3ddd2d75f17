"""How fast the vms stage comes back with its table: from the start of its processes to the first change.

`vm.state` is seeded with a whole fleet (see `seeding`), and one report per partition waits in `vm.observations`. The
workers are then started as the supervisor starts them; the figure is the time until a change made of the waiting
report can be read in `vm.changes`, for the last of all partitions. Memory is the workers' resident set, the highest
one too.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from infra.runtime.kafka import make_admin, make_consumer, make_producer
from infra.runtime.settings import KafkaSettings, TopicSettings
from infra.runtime.topics import ALL_TOPICS, VM_CHANGES, VM_OBSERVATIONS, VM_STATE, TopicAdmin
from infra.stack.settings import StackSettings
from infra.stack.stack import Stack
from schemas.codec import SCHEMA_HEADER, header_of
from schemas.ids import key_of, partition_of
from schemas.observation import ObservationBatch, VmObservation
from schemas.status import Status
from tests.benchmarks import seeding
from tests.benchmarks.measured import result, say
from tests.benchmarks.stage_worker import SESSION_SECONDS, StageWorker

VMS = int(os.environ.get("BENCH_VMS", "1000000"))
PARTITIONS = 4
PREFIX = "recovery."
GROUP = f"{PREFIX}deltavisor-vms"
DEADLINE_SECONDS = 300.0
"""Of one recovery; a machine that needs longer has no figure worth keeping."""
SETTLE_SECONDS = 3.0
"""After the first change, before memory is read."""


def seed(bootstrap: str, mine: frozenset[int], topic_id: str) -> int:
    """Write the rows and inputs of these partitions; the number of rows."""
    kafka = KafkaSettings(bootstrap=bootstrap, topic_prefix=PREFIX)
    producer = make_producer(
        kafka, linger_ms=50, queue_buffering_max_messages=100_000, delivery_report_only_error=True, batch_size=1_000_000
    )
    rows = 0
    for wave in seeding.seeded(VMS, PARTITIONS, mine, topic_id):
        for value in wave.inputs:
            headers = [(SCHEMA_HEADER, header_of(ObservationBatch))]
            producer.produce(PREFIX + VM_OBSERVATIONS, value, None, wave.partition, headers=headers)
        for row in wave.rows:
            schema = [] if row.schema is None else [(SCHEMA_HEADER, row.schema)]
            while len(producer) > 90_000:
                producer.poll(0.01)
            producer.produce(PREFIX + VM_STATE, row.value, row.key, wave.partition, headers=schema)
        rows += len(wave.rows)
    left = producer.flush(60)
    assert left == 0, f"{left} records were not written"
    return rows


def seed_all(kafka: KafkaSettings) -> int:
    """Every partition, by as many processes as there are cores."""
    admin = TopicAdmin(kafka, TopicSettings(partitions=PARTITIONS))
    admin.apply(ALL_TOPICS)
    topic_id = admin.topic_ids([VM_OBSERVATIONS])[VM_OBSERVATIONS]
    shares = [frozenset(range(at, PARTITIONS, 2)) for at in range(2)]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        rows = pool.map(seed, [kafka.bootstrap] * 2, shares, [topic_id] * 2)
        return sum(rows)


def write_reports(kafka: KafkaSettings, turn: int) -> None:
    """For each partition one report that changes one VM, of another host each turn."""
    producer = make_producer(kafka)
    for partition in range(PARTITIONS):
        candidates = range(turn * seeding.VMS_PER_HOST, (turn + 1) * seeding.VMS_PER_HOST)
        vm = next(vm for vm in candidates if partition_of(key_of(seeding.vm_of(vm)), PARTITIONS) == partition)
        observed = VmObservation(seeding.vm_of(vm), seeding.facets_of(vm, Status.PAUSED))
        value = seeding.batch_of(turn % PARTITIONS, 0, [seeding.report(turn, 1_000 + turn, [observed])])
        headers = [(SCHEMA_HEADER, header_of(ObservationBatch))]
        producer.produce(PREFIX + VM_OBSERVATIONS, value, None, partition, headers=headers)
    assert producer.flush(30) == 0


@contextmanager
def workers(kafka: KafkaSettings, folder: Path, count: int) -> Iterator[list[StageWorker]]:
    """So many workers, started at once; killed at the end."""
    found = [StageWorker("vms", kafka, folder, name=f"w{number}", partitions=PARTITIONS) for number in range(count)]
    try:
        yield found
    finally:
        for worker in found:
            worker.kill()


def first_changes(kafka: KafkaSettings, ends: dict[int, int], running: list[StageWorker]) -> float:
    """Wall clock at which the first new change of the last partition could be read."""
    consumer = make_consumer(kafka, group_id=f"{PREFIX}reader", fetch_wait_max_ms=20)
    consumer.assign([TopicPartition(PREFIX + VM_CHANGES, partition, end) for partition, end in ends.items()])
    missing, deadline = set(ends), time.monotonic() + DEADLINE_SECONDS
    try:
        while missing:
            for worker in running:
                worker.require_alive()
            assert time.monotonic() < deadline, f"no change in {sorted(missing)} after {DEADLINE_SECONDS:.0f} s"
            missing -= {message.partition() for message in consumer.consume(100, 0.05) if message.error() is None}
        return time.time()
    finally:
        consumer.close()


def ends_of(kafka: KafkaSettings, topic: str) -> dict[int, int]:
    """Where each partition of a topic ends."""
    consumer = make_consumer(kafka, group_id=f"{PREFIX}reader")
    try:
        found = {}
        for partition in range(PARTITIONS):
            bounds = consumer.get_watermark_offsets(TopicPartition(PREFIX + topic, partition), timeout=30)
            assert bounds is not None
            found[partition] = bounds[1]
        return found
    finally:
        consumer.close()


def wait_for_empty_group(kafka: KafkaSettings) -> None:
    """Until the group has forgotten the killed members of the turn before; a group that never was is empty."""
    admin, deadline = make_admin(kafka), time.monotonic() + 6 * SESSION_SECONDS
    while True:
        try:
            if not admin.describe_consumer_groups([GROUP])[GROUP].result().members:
                return
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return
        assert time.monotonic() < deadline, "the group keeps members that are dead, or nobody knows it"
        time.sleep(0.5)


def recover(kafka: KafkaSettings, folder: Path, count: int, turn: int) -> dict[str, Any]:
    """Start so many workers on the seeded table and measure them."""
    say(f"recovery by {count} worker(s)")
    wait_for_empty_group(kafka)
    write_reports(kafka, turn)
    ends = ends_of(kafka, VM_CHANGES)
    load_average = os.getloadavg()[0]
    with workers(kafka, folder, count) as running:
        began_at = min(worker.started_at for worker in running)
        seconds = first_changes(kafka, ends, running) - began_at
        cpu = [worker.cpu_seconds() for worker in running]
        time.sleep(SETTLE_SECONDS)
        memory = [worker.memory() for worker in running]
        loads = [event for worker in running for event in worker.events("tables_loaded")]
    return {
        "workers": count,
        "seconds": round(seconds, 2),
        "vms_per_second": round(VMS / seconds),
        "loading_seconds": [event["seconds"] for event in loads],
        "rows": sum(event["rows"] for event in loads),
        "cpu_seconds": [round(spent, 2) for spent in cpu],
        "cpu_microseconds_per_vm": round(sum(cpu) / VMS * 1e6, 1),
        "resident_bytes": [now for now, _ in memory],
        "resident_bytes_per_vm": round(sum(now for now, _ in memory) / VMS),
        "peak_resident_bytes_per_vm": round(sum(peak for _, peak in memory) / VMS),
        "load_average_before": round(load_average, 2),
    }


def main() -> None:
    """Run it with one worker and with two, and print the figures."""
    stack = Stack(f"bench-recovery-{os.getpid()}", settings=StackSettings())
    say("starting Kafka")
    endpoints = stack.up(services={"kafka"})
    try:
        kafka = KafkaSettings(bootstrap=endpoints.kafka, topic_prefix=PREFIX)
        say(f"seeding {VMS} VMs")
        rows = seed_all(kafka)
        with tempfile.TemporaryDirectory() as folder:
            turns = [recover(kafka, Path(folder), count, turn) for turn, count in enumerate((2, 1))]
    finally:
        stack.reset()
    two, one = turns
    result(
        "recovery",
        {
            "vms_per_second": two["vms_per_second"],
            "seconds": two["seconds"],
            "memory_bytes_per_vm": two["resident_bytes_per_vm"],
            "vms": VMS,
            "facets_per_vm": 4,
            "rows_in_the_table": rows,
            "partitions": PARTITIONS,
            "two_workers": two,
            "one_worker": one,
        },
    )


if __name__ == "__main__":
    main()
