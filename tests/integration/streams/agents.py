"""Hosts inside a test: agents that write host.reports themselves, beat, and answer requests unless told not to."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self
from uuid import uuid4

import msgspec
from confluent_kafka import TopicPartition

from infra.runtime.kafka import make_consumer, make_producer
from infra.runtime.settings import KafkaSettings, TopicSettings
from infra.runtime.topics import HOST_REPORTS
from producers.agent.resync import ResyncListener
from schemas.codec import encode, header_of
from schemas.facets.identity import Identity
from schemas.facets.run import Run
from schemas.ids import HostId, RequestId, VmId, key_of, partition_of
from schemas.report import HostReport
from schemas.resync import ResyncRequest
from schemas.status import Status
from tests.unit.streams.hosts.world import Agent

BEAT_SECONDS = 1.0


def run_facet(process: str, status: Status = Status.UP) -> bytes:
    """A run facet as an agent sends it."""
    return encode(Run(status=status, process_id=process))


class Agents:
    """Some hosts with some VMs each; use as a context, which sends the first snapshots."""

    def __init__(self, kafka: KafkaSettings, topics: TopicSettings, *, hosts: int, vms: int) -> None:
        self._topic = kafka.topic_prefix + HOST_REPORTS
        self._partitions = topics.partitions
        self._producer = make_producer(kafka, linger_ms=0)
        self.agents = [Agent(HostId(uuid4().bytes), epoch=number + 1) for number in range(hosts)]
        for agent in self.agents:
            for _ in range(vms):
                vm_id = VmId(uuid4().bytes)
                agent.vms[vm_id] = {"identity": encode(Identity(name="vm")), "run": run_facet("first")}
        self.answering = True
        self.requests: list[ResyncRequest] = []
        self.sent = {agent.host_id: 0 for agent in self.agents}
        """Heartbeats sent, by host."""
        self._unanswered: list[ResyncRequest] = []
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._listener = ResyncListener(kafka, topics, [agent.host_id for agent in self.agents], self._asked)
        self._threads = [
            threading.Thread(target=self._beat, name="beats"),
            threading.Thread(target=self._listener.run, args=(self._stop,), name="requests"),
        ]

    def __enter__(self) -> Self:
        self._listener.setup()
        for agent in self.agents:
            self.send(agent, agent.snapshot())
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()
        self._producer.flush(10)

    def send(self, agent: Agent, reports: Sequence[HostReport]) -> list[bytes]:
        """Write reports as they stand; their bytes, to write them again."""
        values = []
        for report in reports:
            now = time.time_ns() // 1_000 * 1_000
            values.append(encode(msgspec.structs.replace(report, observed_at=now, sent_at=now)))
        self.write(agent, values)
        return values

    def write(self, agent: Agent, values: Sequence[bytes]) -> None:
        """Write bytes as reports of this host."""
        key = key_of(agent.host_id)
        headers = [("schema", header_of(HostReport))]
        for value in values:
            self._producer.produce(self._topic, value, key, partition_of(key, self._partitions), headers=headers)
        assert self._producer.flush(20) == 0

    def change(self, agent: Agent, process: str) -> list[HostReport]:
        """A change of each VM of this host, one report each, not written yet. Hold `quiet` until they are."""
        return [agent.change({vm_id: {"run": run_facet(process)}}) for vm_id in list(agent.vms)]

    @property
    def quiet(self) -> threading.RLock:
        """While held, nobody else speaks."""
        return self._lock

    def _asked(self, request: ResyncRequest) -> None:
        with self._lock:
            self.requests.append(request)
            self._unanswered.append(request)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            with self._lock:
                for agent in self.agents:
                    self._speak(agent)

    def _speak(self, agent: Agent) -> None:
        asked = [one for one in self._unanswered if one.host_id == agent.host_id] if self.answering else []
        if asked:
            self._unanswered = [one for one in self._unanswered if one not in asked]
            answers = tuple(RequestId(one.request_id) for one in asked)
            self.send(agent, agent.snapshot(2, force=any(one.force for one in asked), answers=answers))
        self.send(agent, [agent.heartbeat()])
        self.sent[agent.host_id] += 1


def ends_of(kafka: KafkaSettings, topic: str, partition: int) -> tuple[int, int]:
    """First and next offset of a partition."""
    consumer = make_consumer(kafka, group_id="repair-test")
    try:
        found = consumer.get_watermark_offsets(
            TopicPartition(kafka.topic_prefix + topic, partition), timeout=10, cached=False
        )
    finally:
        consumer.close()
    assert found is not None
    low, high = found
    return int(low), int(high)
