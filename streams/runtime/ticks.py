"""The Ticker: writes one signed tick per second to every input partition this worker owns.

Ticks are the only clock of the stages. They are records of the input log, so a replay sees the same time as the first
run did, and an outage makes the clock stand still instead of making everybody look silent.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import msgspec
from confluent_kafka import KafkaError, Message, Producer

from infra.runtime.kafka import make_producer
from infra.runtime.log import get_logger
from infra.runtime.settings import KafkaSettings
from schemas.codec import SCHEMA_HEADER, encode, header_of
from schemas.tick import TICK_KEY, Tick, sign_tick
from streams.runtime.ending import EndProcess, end_process
from streams.runtime.lanes import Lane, Lanes
from streams.runtime.stage import TickedCore

TICK_SECONDS = 1.0
OWNER_BYTES = 16
FLUSH_MARGIN_SECONDS = 2.0

_log = get_logger(__name__)


class TickLine:
    """When the next tick of one partition may be written, and its number. Pure; one per lane.

    Never more than one tick is on its way: the next is written when the last was applied, so a partition that lags
    behind has a slow clock instead of a backlog of seconds.
    """

    __slots__ = ("_undelivered", "_wait_for")

    def __init__(self) -> None:
        self._undelivered = False
        self._wait_for = -1

    def due(self, *, caught_up: bool, next_offset: int, expected: int) -> int | None:
        """The number to write now, or None. `expected` is read from the core anew, also after a refused tick."""
        if self._undelivered or not caught_up or next_offset <= self._wait_for:
            return None
        return expected

    def sending(self) -> None:
        """A tick is on its way."""
        self._undelivered = True

    def delivered(self, offset: int) -> None:
        """It is in the log at this offset; the next waits until that was applied."""
        self._undelivered = False
        self._wait_for = offset

    def failed(self) -> None:
        """It was not delivered as far as we know. If it was, the core moves on and refuses the repeated number."""
        self._undelivered = False


class TickSigner(msgspec.Struct, frozen=True, kw_only=True):
    """Makes the ticks of one worker for one topic."""

    secret: bytes
    topic_id: str
    rules_version: int
    owner: bytes

    def tick(self, partition: int, n: int) -> bytes:
        """The bytes of tick `n` of this partition."""
        mac = sign_tick(self.secret, self.topic_id, partition, n)
        return encode(Tick(n=n, owner=self.owner, rules_version=self.rules_version, mac=mac))

    def __repr__(self) -> str:
        return f"TickSigner(topic_id={self.topic_id!r})"


def new_owner() -> bytes:
    """The identity of this worker in its ticks."""
    return os.urandom(OWNER_BYTES)


class TickSender:
    """A small idempotent producer of its own, so that a tick never waits behind a batch. One thread at a time."""

    def __init__(self, kafka: KafkaSettings, topic: str, *, delivery_timeout_seconds: float) -> None:
        self._topic = topic
        self._flush_seconds = delivery_timeout_seconds + FLUSH_MARGIN_SECONDS
        self._producer: Producer = make_producer(
            kafka, linger_ms=0, delivery_timeout_ms=int(delivery_timeout_seconds * 1000), compression_type="none"
        )

    def send(self, ticks: Mapping[int, bytes]) -> Mapping[int, int]:
        """Write one tick per partition; the offsets of those delivered. Blocking."""
        offsets: dict[int, int] = {}

        def report(error: KafkaError | None, message: Message) -> None:
            partition, offset = message.partition(), message.offset()
            if error is None and partition is not None and offset is not None:
                offsets[partition] = offset

        headers = [(SCHEMA_HEADER, header_of(Tick))]
        for partition, value in ticks.items():
            self._producer.produce(self._topic, value, TICK_KEY, partition, headers=headers, on_delivery=report)
        self._producer.flush(self._flush_seconds)
        return offsets


class Ticker:
    """Ticks for all lanes together, once a second."""

    def __init__(
        self,
        lanes: Lanes,
        send: Callable[[Mapping[int, bytes]], Mapping[int, int]],
        signer: TickSigner,
        *,
        settled: Callable[[], bool],
        end: EndProcess = end_process,
        tick_seconds: float = TICK_SECONDS,
    ) -> None:
        """`settled` is False during a rebalance: then somebody else may own the partitions by the time a tick lands."""
        self._lanes = lanes
        self._send = send
        self._signer = signer
        self._settled = settled
        self._end = end
        self._tick_seconds = tick_seconds
        self._lines: dict[Lane, TickLine] = {}
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="ticks")
        self.written = 0
        self.failures = 0

    async def run(self) -> None:
        """Tick until cancelled."""
        try:
            while True:
                await asyncio.sleep(self._tick_seconds)
                if self._settled():
                    await self.tick()
        except asyncio.CancelledError:
            return
        except Exception as error:
            self._end(error)

    async def tick(self) -> None:
        """Write the ticks that are due now."""
        lines = self._lines = {lane: self._lines.get(lane, TickLine()) for lane in self._lanes.values()}
        due: dict[int, tuple[TickLine, bytes]] = {}
        for lane, line in lines.items():
            core = lane.core
            if not isinstance(core, TickedCore):
                raise TypeError(f"the core of partition {lane.partition} has no expected_tick")
            n = line.due(caught_up=lane.caught_up, next_offset=lane.next_offset, expected=core.expected_tick)
            if n is not None:
                line.sending()
                due[lane.partition] = line, self._signer.tick(lane.partition, n)
        if not due:
            return
        loop = asyncio.get_running_loop()
        ticks = {partition: value for partition, (_, value) in due.items()}
        offsets = await loop.run_in_executor(self._executor, self._send, ticks)
        for partition, (line, _) in due.items():
            if partition in offsets:
                line.delivered(offsets[partition])
                self.written += 1
            else:
                line.failed()
                self.failures += 1
        if len(offsets) < len(due):
            _log.warning("ticks_undelivered", partitions=sorted(due.keys() - offsets.keys()))

    def close(self) -> None:
        """Give the thread back."""
        self._executor.shutdown(wait=False, cancel_futures=True)
