"""A counting line on a real Kafka: starts workers as processes, writes work, and proves that nothing was lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, Message, TopicPartition

from infra.runtime.kafka import make_admin, make_consumer, make_producer
from infra.runtime.settings import KafkaSettings, TopicSettings
from infra.runtime.topics import DEAD_LETTERS, HOST_REPORTS, HOSTS_TABLE, VM_OBSERVATIONS, TopicAdmin
from schemas.codec import SCHEMA_HEADER, decode, encode, header_of
from schemas.ids import partition_of
from schemas.tick import TICK_KEY
from tests.integration.streams.counting import (
    DEADLY,
    LARGE,
    PARTITION_KEY,
    POISON,
    Counted,
    CountRow,
    PartitionRow,
    Work,
)

TOPICS = (HOST_REPORTS, HOSTS_TABLE, VM_OBSERVATIONS, DEAD_LETTERS)
REPOSITORY = Path(__file__).parents[3]
CONFIG = """
[kafka]
bootstrap = "{bootstrap}"
topic_prefix = "{prefix}"
[topics]
partitions = {partitions}
[hosts]
worker_name = "{name}"
tick_key = "a key for tests alone"
ticks = "{ticks}"
session_timeout_seconds = {session}
heartbeat_interval_seconds = 1
delivery_timeout_seconds = {delivery}
lifecycle.give_up_after_seconds = 3
"""


@dataclass(kw_only=True)
class Line:
    """Topics, workers and work of one test."""

    kafka: KafkaSettings
    directory: Path
    partitions: int = 4
    ticks: str = "external"
    session_seconds: float = 6.0
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.producer = make_producer(self.kafka)

    def topic(self, name: str) -> str:
        """Its name on the broker."""
        return self.kafka.topic_prefix + name

    def create_topics(self) -> None:
        """All that a worker needs."""
        TopicAdmin(self.kafka, TopicSettings(partitions=self.partitions)).apply(TOPICS)

    def start(self, name: str = "1", **changed: Any) -> subprocess.Popen[bytes]:
        """Start a worker, or start it again; its log is appended to `<name>.log`."""
        values = {
            "bootstrap": self.kafka.bootstrap,
            "prefix": self.kafka.topic_prefix,
            "partitions": self.partitions,
            "name": name,
            "ticks": self.ticks,
            "session": self.session_seconds,
            "delivery": self.session_seconds / 2 - 0.5,
            **changed,
        }
        config = self.directory / f"{name}.toml"
        config.write_text(CONFIG.format(**values))
        with (self.directory / f"{name}.log").open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.streams.counting", str(config)],
                cwd=REPOSITORY,
                stderr=log,
                stdout=log,
            )
        self.workers[name] = worker
        return worker

    def log(self, name: str = "1") -> str:
        """What the worker of this name logged so far, all runs."""
        return (self.directory / f"{name}.log").read_text()

    def wait_for_log(self, text: str, *, name: str = "1", times: int = 1, seconds: float = 30.0) -> None:
        """Until the text stands in the log so many times."""
        deadline = time.monotonic() + seconds
        while self.log(name).count(text) < times:
            assert time.monotonic() < deadline, f"{text!r} not {times} times in the log of {name}:\n{self.log(name)}"
            time.sleep(0.05)

    def wait_until_loaded(self, name: str = "1", *, times: int = 1) -> None:
        """Until the worker has loaded its tables so many times."""
        self.wait_for_log('"tables_loaded"', name=name, times=times)

    def stop(self, name: str = "1", number: int = signal.SIGTERM, *, seconds: float = 30.0) -> int:
        """Send a signal and return the exit code."""
        self.workers[name].send_signal(number)
        return self.workers[name].wait(seconds)

    def close(self) -> None:
        """Kill what still runs."""
        for worker in self.workers.values():
            if worker.poll() is None:
                os.kill(worker.pid, signal.SIGCONT)
                worker.kill()
                worker.wait()

    def get(self, path: str, name: str = "1") -> str:
        """An answer of the worker's health server."""
        port = next(
            part.split('"port": ')[1].split(",")[0]
            for part in reversed(self.log(name).splitlines())
            if '"http_listening"' in part
        )
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            body: bytes = answer.read()
        return body.decode()

    def work(self, inputs: int, *, keys: int = 200, each: int = 5, rate: float = 0.0, seed: int = 1) -> None:
        """Write so many inputs, at `rate` per second, or at once."""
        chance = random.Random(seed)
        names = [f"key-{number}".encode() for number in range(keys)]
        started_at = time.monotonic()
        for number in range(inputs):
            self.write(chance.randrange(self.partitions), chance.choices(names, k=each))
            if rate:
                time.sleep(max(0.0, started_at + (number + 1) / rate - time.monotonic()))
        assert self.producer.flush(30) == 0

    def write(self, partition: int, keys: list[bytes], *, schema: bytes | None = None) -> None:
        """Write one input."""
        self.producer.produce(
            self.topic(HOST_REPORTS),
            encode(Work(keys=keys)),
            b"work",
            partition,
            headers=[(SCHEMA_HEADER, schema or header_of(Work))],
        )
        self.producer.poll(0)

    def read(self, topic: str) -> list[Message]:
        """The whole topic as it is now."""
        consumer = make_consumer(self.kafka, group_id=f"{self.kafka.topic_prefix}reader", fetch_wait_max_ms=20)
        try:
            return _read(consumer, self.topic(topic), self.partitions)
        finally:
            consumer.close()

    def end(self, partition: int) -> int:
        """The offset of the next input of this partition."""
        consumer = make_consumer(self.kafka, group_id=f"{self.kafka.topic_prefix}reader")
        try:
            place = TopicPartition(self.topic(HOST_REPORTS), partition)
            answer = consumer.get_watermark_offsets(place, timeout=10, cached=False)
        finally:
            consumer.close()
        assert answer is not None
        return int(answer[1])

    def committed(self) -> dict[int, int]:
        """The group's offsets by partition; -1001 when there is none."""
        group = f"{self.kafka.topic_prefix}deltavisor-hosts"
        consumer = make_consumer(self.kafka, group_id=group)
        try:
            asked = [TopicPartition(self.topic(HOST_REPORTS), p) for p in range(self.partitions)]
            return {answer.partition: answer.offset for answer in consumer.committed(asked, timeout=10)}
        finally:
            consumer.close()

    def expected(self) -> Mapping[tuple[int, int, bytes], int]:
        """The counter after every (partition, offset, key) of the input, counted here by other code."""
        counts: dict[tuple[int, bytes], int] = {}
        after: dict[tuple[int, int, bytes], int] = {}
        for message in self.read(HOST_REPORTS):
            if message.key() == TICK_KEY:
                continue
            partition, offset = _place(message)
            for key in dict.fromkeys(decode(Work, _value(message), _header(message)).keys):
                if key.startswith((POISON, DEADLY, LARGE)):
                    continue
                counts[partition, key] = counts.get((partition, key), 0) + 1
                after[partition, offset, key] = counts[partition, key]
        return after

    def wait_until_done(self, *, seconds: float = 60.0) -> None:
        """Until every input is in the outputs and every partition's row is at the end of its input."""
        deadline = time.monotonic() + seconds
        while not self._done():
            assert time.monotonic() < deadline, "\n".join(self.log(name) for name in self.workers)[-6000:]
            time.sleep(0.3)

    def _done(self) -> bool:
        ends = dict.fromkeys(range(self.partitions), -1)
        for message in self.read(HOST_REPORTS):
            if message.key() != TICK_KEY:
                ends[_place(message)[0]] = _place(message)[1]
        applied = dict.fromkeys(range(self.partitions), -1)
        for message in self.read(HOSTS_TABLE):
            if message.key() == PARTITION_KEY:
                applied[_place(message)[0]] = decode(PartitionRow, _value(message), _header(message)).applied
        return all(applied[partition] >= ends[partition] for partition in ends)

    def verify(self) -> int:
        """Assert that outputs and table are exactly what the input says; the number of repeated outputs."""
        expected = self.expected()
        seen: dict[tuple[int, int, bytes], int] = {}
        repeated = 0
        for message in self.read(VM_OBSERVATIONS):
            key = message.key()
            assert isinstance(key, bytes)
            assert _place(message)[0] == partition_of(key, self.partitions)
            output = decode(Counted, _value(message), _header(message))
            place = (output.partition, output.offset, key)
            if place in seen:
                repeated += 1
                assert seen[place] == output.count, f"two different outputs for {place}"
            seen[place] = output.count
        assert seen == expected
        self._verify_table(expected)
        return repeated

    def _verify_table(self, expected: Mapping[tuple[int, int, bytes], int]) -> None:
        last: dict[tuple[int, bytes], tuple[int, int]] = {}
        for (partition, offset, key), count in expected.items():
            last[partition, key] = max((offset, count), last.get((partition, key), (-1, 0)))
        rows: dict[tuple[int, bytes], tuple[int, int]] = {}
        for message in self.read(HOSTS_TABLE):
            key = message.key()
            assert isinstance(key, bytes)
            if message.value() is not None and not key.startswith(b"#"):
                row = decode(CountRow, _value(message), _header(message))
                rows[_place(message)[0], key] = (row.applied, row.count)
        assert rows == last


def commit_offsets(line: Line, offsets: Mapping[int, int]) -> None:
    """Set the group's offsets; waits until a member that was killed has left the group."""
    group = f"{line.kafka.topic_prefix}deltavisor-hosts"
    wanted = [TopicPartition(line.topic(HOST_REPORTS), partition, offset) for partition, offset in offsets.items()]
    admin = make_admin(line.kafka)
    deadline = time.monotonic() + 20
    while True:
        try:
            answer = admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, wanted)])[group].result()
            if all(place.error is None for place in answer.topic_partitions):
                return
        except KafkaException:
            pass  # as below: the group is not empty yet
        assert time.monotonic() < deadline, "the group never became empty"
        time.sleep(0.5)


def _read(consumer: Consumer, topic: str, partitions: int) -> list[Message]:
    ends = {}
    for partition in range(partitions):
        answer = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10, cached=False)
        assert answer is not None
        low, high = answer
        if high > low:
            ends[partition] = low, high
    if not ends:
        return []
    consumer.assign([TopicPartition(topic, partition, low) for partition, (low, _) in ends.items()])
    found: list[Message] = []
    deadline = time.monotonic() + 30
    while ends:
        assert time.monotonic() < deadline, f"cannot read {topic} to its end"
        for message in consumer.consume(10_000, 0.1):
            assert message.error() is None
            found.append(message)
        for answer in consumer.position([TopicPartition(topic, partition) for partition in ends]):
            if answer.offset >= ends[answer.partition][1]:
                del ends[answer.partition]
    return found


def _place(message: Message) -> tuple[int, int]:
    partition, offset = message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    return partition, offset


def _value(message: Message) -> bytes:
    value = message.value()
    assert isinstance(value, bytes)
    return value


def _header(message: Message) -> bytes | None:
    headers: Any = message.headers() or []
    return next((value for name, value in headers if name == SCHEMA_HEADER), None)
