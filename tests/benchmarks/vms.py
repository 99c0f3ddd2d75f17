"""How many VM changes a core's worth of the vms stage decides: the real rules, a durable Kafka, vm.state on.

A worker, started as the supervisor starts it, reads what `vms_load` wrote to `vm.observations` and writes `vm.changes`
and `vm.state`. The figure is changes per CPU second of that process, which the operating system counts: decoding,
rules, encoding, Kafka client and Faust, all of it. Beside it the core alone, other shapes of input, and two peers that
do the same job without rules (`vms_peer`), in the same run on the same servers.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil
from confluent_kafka import Consumer, KafkaException, TopicPartition

from infra.runtime.kafka import make_consumer, make_producer
from infra.runtime.settings import KafkaSettings, TopicSettings
from infra.runtime.topics import (
    DEAD_LETTERS,
    RESYNC_REQUESTS,
    VM_CHANGES,
    VM_INTENTS,
    VM_OBSERVATIONS,
    VM_STATE,
    TopicAdmin,
)
from infra.stack.settings import StackSettings
from infra.stack.stack import Stack
from schemas.codec import SCHEMA_HEADER, header_of
from schemas.observation import ObservationBatch
from streams.runtime.stage import Input
from streams.vms.app import VmsStage
from tests.benchmarks.measured import result, say
from tests.benchmarks.vms_load import Load

VMS, HOSTS = 6_000, 20
BATCH: Final = 200
"""Changes in one input record."""
PER_REPORT: Final = 10
CHANGES = int(os.environ.get("BENCH_CHANGES", "40000"))
"""In the run that makes the figure; a part of it in each of the others."""
DEADLINE_SECONDS = 120.0
TOPICS: Final = (VM_OBSERVATIONS, VM_INTENTS, VM_CHANGES, VM_STATE, RESYNC_REQUESTS, DEAD_LETTERS)
ROOT = Path(__file__).resolve().parents[2]
_HEADER: Final = header_of(ObservationBatch)
_CONFIG = """
[kafka]
bootstrap = "{bootstrap}"
topic_prefix = "{prefix}"
[topics]
partitions = {partitions}
"""

Batches = list[tuple[int, bytes]]
"""Values for `vm.observations`, each with its partition."""


def introduction(load: Load) -> Batches:
    """After it every VM is known."""
    return [(partition, value) for partition in range(load.partitions) for value in load.introduction(partition)]


def changes(load: Load, count: int, per_report: int) -> Batches:
    """So many changes in batches of `BATCH`, over all partitions in turn, each from one hosts partition."""
    batches = []
    for number in range(count // BATCH):
        partition = number % load.partitions
        source = number // load.partitions % min(load.partitions, len(load.hosts))
        batches.append((partition, load.batch(partition, source, BATCH, per_report)))
    return batches


def core_alone(per_report: int, count: int) -> dict[str, float]:
    """The rules with all decoding and encoding, without Kafka: partition 0 of four."""
    load = Load(partitions=4, hosts=HOSTS, vms=VMS)
    core = VmsStage(4, {}).loader(0).finish()
    first = list(load.introduction(0))
    values = [load.batch(0, number % 4, BATCH, per_report) for number in range(count // BATCH)]
    made = spent = 0.0
    for offset, value in enumerate(chain(first, values)):
        began_at = time.process_time()
        core.apply(Input(0, offset, 0, None, value, _HEADER))
        batch = core.seal()
        if offset >= len(first):
            spent += time.process_time() - began_at
            made += sum(output.topic == VM_CHANGES for output in batch.outputs)
    assert made == count, f"{made} changes of {count}"
    return {"changes_per_core_second": round(made / spent), "microseconds_per_change": round(spent / made * 1e6, 1)}


class Line:
    """Topics of one run, and what is read off them."""

    def __init__(self, bootstrap: str, name: str, partitions: int) -> None:
        self.prefix = f"{name}."
        self.partitions = partitions
        self.kafka = KafkaSettings(bootstrap=bootstrap, topic_prefix=self.prefix)
        TopicAdmin(self.kafka, TopicSettings(partitions=partitions)).apply(TOPICS)
        self._producer = make_producer(self.kafka, queue_buffering_max_messages=500_000)
        self._reader = make_consumer(self.kafka, group_id=f"{self.prefix}reader")

    def write(self, batches: Batches) -> None:
        """Put these inputs into the log."""
        for partition, value in batches:
            key, headers = str(partition), [(SCHEMA_HEADER, _HEADER)]
            self._producer.produce(self.prefix + VM_OBSERVATIONS, value, key, partition, headers=headers)
            self._producer.poll(0)
        assert self._producer.flush(60) == 0

    def count(self, topic: str) -> int:
        """Records written to a topic so far."""
        return sum(self._bounds(topic))

    def acknowledged(self, member: Consumer) -> bool:
        """Has this client's group acknowledged all inputs?"""
        wanted = [TopicPartition(self.prefix + VM_OBSERVATIONS, number) for number in range(self.partitions)]
        offsets = [place.offset for place in member.committed(wanted, timeout=30)]
        return all(offset >= end for offset, end in zip(offsets, self._bounds(VM_OBSERVATIONS), strict=True) if end)

    def bytes_of(self, topic: str, since: list[int]) -> tuple[int, int]:
        """Records and bytes (keys, values) of a topic behind these offsets."""
        ends = self._bounds(topic)
        places = [TopicPartition(self.prefix + topic, number, offset) for number, offset in enumerate(since)]
        self._reader.assign(places)
        records = size = 0
        while records < sum(ends) - sum(since):
            for message in self._reader.consume(5_000, 1.0):
                records += 1
                size += len(message.key() or b"") + len(message.value() or b"")
        return records, size

    def bounds(self, topic: str) -> list[int]:
        """End of each partition."""
        return self._bounds(topic)

    def close(self) -> None:
        """Give the clients back."""
        self._reader.close()

    def _bounds(self, topic: str) -> list[int]:
        found = []
        for number in range(self.partitions):
            found.append(self._end(TopicPartition(self.prefix + topic, number)))
        return found

    def _end(self, place: TopicPartition) -> int:
        deadline = time.monotonic() + DEADLINE_SECONDS / 4
        while True:
            try:
                bounds = self._reader.get_watermark_offsets(place, timeout=30)
                assert bounds is not None
                return int(bounds[1])
            except KafkaException:
                # A partition that was just made has no leader for a moment.
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.2)


class Spent(NamedTuple):
    """What some changes cost."""

    changes: int
    cpu_seconds: float

    def figures(self) -> dict[str, float]:
        """For the result."""
        return {
            "changes_per_core_second": round(self.changes / self.cpu_seconds),
            "cpu_microseconds_per_change": round(self.cpu_seconds / self.changes * 1e6, 1),
        }


class Measured:
    """A process that reads a line's inputs, and its CPU time."""

    def __init__(self, line: Line, group: str, command: Sequence[str], log: Path) -> None:
        self._line = line
        self._member = make_consumer(line.kafka, group_id=group)
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT)
        self._spent = psutil.Process(self.process.pid)

    def take(self, batches: Batches, expected: int) -> Spent:
        """Write these inputs and wait until they are all acknowledged; they must make so many changes."""
        before = self._line.count(VM_CHANGES)
        cpu, began_at = self._cpu(), time.monotonic()
        self._line.write(batches)
        while self._line.count(VM_CHANGES) < before + expected or not self._line.acknowledged(self._member):
            assert self.process.poll() is None, f"it ended:\n{self._log.read_text()[-2000:]}"
            assert time.monotonic() - began_at < DEADLINE_SECONDS, f"not done:\n{self._log.read_text()[-2000:]}"
            time.sleep(0.1)
        made = self._line.count(VM_CHANGES) - before
        assert made == expected, f"{made} changes instead of {expected}"
        spent = Spent(made, self._cpu() - cpu)
        say(f"  {spent.figures()}")
        return spent

    def _cpu(self) -> float:
        times = self._spent.cpu_times()
        return times.user + times.system


@contextmanager
def measured(line: Line, group: str, command: Sequence[str], folder: Path) -> Iterator[Measured]:
    """Such a process; killed at the end."""
    found = Measured(line, group, command, folder / f"{group}.log")
    try:
        yield found
    finally:
        found.process.kill()
        found.process.wait()
        line.close()


@contextmanager
def worker(bootstrap: str, folder: Path, partitions: int) -> Iterator[tuple[Line, Load, Measured]]:
    """A worker of the stage that knows the fleet already."""
    line = Line(bootstrap, f"vms{partitions}", partitions)
    # Every host needs more VMs in each partition than a report names.
    load = Load(partitions=partitions, hosts=HOSTS if partitions < 48 else HOSTS // 4, vms=VMS)
    config = folder / f"{line.prefix}toml"
    config.write_text(_CONFIG.format(bootstrap=bootstrap, prefix=line.prefix, partitions=partitions))
    command = (sys.executable, "-m", "infra.cli.main", "stream", "vms", "--config", str(config), "--http-port", "0")
    with measured(line, f"{line.prefix}deltavisor-vms", command, folder) as process:
        process.take(introduction(load), VMS)
        yield line, load, process


def stage(bootstrap: str, folder: Path) -> dict[str, Any]:
    """The stage: the figure, then other shapes of input."""
    figures: dict[str, Any] = {}
    with worker(bootstrap, folder, 4) as (line, load, process):
        say(f"vms stage, 4 partitions, {CHANGES} changes")
        process.take(changes(load, CHANGES // 2, PER_REPORT), CHANGES // 2)
        since = {topic: line.bounds(topic) for topic in (VM_CHANGES, VM_STATE)}
        spent = process.take(changes(load, CHANGES, PER_REPORT), CHANGES)
        figures.update(spent.figures())
        for topic, ends in since.items():
            records, size = line.bytes_of(topic, ends)
            name = topic.replace(".", "_")
            figures[f"{name}_records_per_change"] = round(records / spent.changes, 2)
            figures[f"{name}_bytes_per_change"] = round(size / spent.changes)
        figures["per_report"] = {}
        for per_report in (1, 5, 20, 50):
            say(f"vms stage, {per_report} changes per report")
            some = process.take(changes(load, CHANGES // 2, per_report), CHANGES // 2)
            figures["per_report"][str(per_report)] = some.figures()
    figures["partitions"] = {"4": spent.figures()}
    for partitions in (8, 48):
        with worker(bootstrap, folder, partitions) as (line, load, process):
            say(f"vms stage, {partitions} partitions")
            some = process.take(changes(load, CHANGES // 2, PER_REPORT), CHANGES // 2)
            figures["partitions"][str(partitions)] = some.figures()
    return figures


def peer(bootstrap: str, folder: Path, name: str, python: Path) -> dict[str, float]:
    """A peer: the same inputs, its own topics. Every facet of the introduction is a change to it."""
    say(f"peer {name}")
    line = Line(bootstrap, name, 4)
    load = Load(partitions=4, hosts=HOSTS, vms=VMS)
    script = str(Path(__file__).with_name("vms_peer.py"))
    command = (str(python), script, name, bootstrap, line.prefix, str(folder / name))
    with measured(line, line.prefix + name, command, folder) as process:
        process.take(introduction(load), 5 * VMS)
        return process.take(changes(load, CHANGES // 2, PER_REPORT), CHANGES // 2).figures()


def quix_environment() -> Path:
    """Python of an environment of its own, made when it is not there yet: its pins are not ours."""
    place = ROOT / ".stack" / "bench-venv"
    python = place / "bin" / "python"
    lock = ROOT / "requirements" / "bench.txt"
    done = place / ".installed"
    if not done.exists() or done.read_bytes() != lock.read_bytes():
        say("installing Quix Streams")
        venv.create(place, with_pip=True, clear=True)
        install = (
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--require-hashes",
            "-r",
            str(lock),
        )
        subprocess.run((str(python), *install), check=True, timeout=300)
        done.write_bytes(lock.read_bytes())
    return python


def main() -> None:
    """Run it and print the figures."""
    python = quix_environment()
    load_average = os.getloadavg()[0]
    say("the core alone")
    alone = {str(per_report): core_alone(per_report, CHANGES // 2) for per_report in (1, PER_REPORT, 50)}
    stack = Stack(f"bench-vms-{os.getpid()}", settings=StackSettings())
    say("starting Kafka")
    bootstrap = stack.up(services={"kafka"}).kafka
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            figures = stage(bootstrap, folder)
            peers = {
                "confluent_kafka_and_a_dict": peer(bootstrap, folder, "confluent", Path(sys.executable)),
                "quix_streams": peer(bootstrap, folder, "quix", python),
            }
    finally:
        stack.reset()
    result(
        "vms",
        {
            **figures,
            "core_alone_by_changes_per_report": alone,
            "peers": peers,
            "vms": VMS,
            "hosts": HOSTS,
            "changes_per_batch": BATCH,
            "changes": CHANGES,
            "load_average_before": round(load_average, 2),
        },
    )


if __name__ == "__main__":
    main()
