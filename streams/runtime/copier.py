"""The Copier: takes records of vm.intents into the stage's own input log, so that one log decides the order.

It has no memory: what comes next is read from the core (`next_intent`), which has it from its table. It copies a chunk
behind that, waits until the chunk was applied, and asks again. A copy that is made twice, by a restart or by an owner
that does not know yet that it is none, is a repeat to the core; one behind a copy that was lost is refused and made
again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from infra.runtime.kafka import make_consumer, make_producer
from infra.runtime.log import get_logger
from infra.runtime.settings import KafkaSettings
from schemas.codec import SCHEMA_HEADER, encode, header_of
from schemas.intent import INTENT_KEY, IntentCopy, fitted, signed
from streams.runtime.ending import EndProcess, end_process
from streams.runtime.lanes import Lane, Lanes
from streams.runtime.stage import IntentCore

CHUNK_RECORDS = 500
WAIT_SECONDS = 1.0
"""How long a read waits for a record, and how long the copier rests when there is nothing to own or no broker."""
APPLY_POLL_SECONDS = 0.02
APPLY_SECONDS = 30.0
"""After this the core is asked anew what it lacks; what it got meanwhile are repeats."""
FLUSH_MARGIN_SECONDS = 2.0

_log = get_logger(__name__)


class Original(NamedTuple):
    """A record of vm.intents. `appended_at`: log-append time, ns."""

    offset: int
    appended_at: int
    key: bytes | None
    schema: bytes | None
    value: bytes


class IntentSource(Protocol):
    """Where intents are read. Blocking; one thread at a time."""

    def read(self, wanted: Mapping[int, int]) -> Mapping[int, Sequence[Original]]:
        """Some records of these partitions from these offsets on, in order; waits a little while there are none."""
        ...

    def close(self) -> None:
        """Give the connection back."""
        ...


class CopySigner(msgspec.Struct, frozen=True, kw_only=True):
    """Makes the copies of one worker for one topic of intents."""

    secret: bytes
    topic_id: str

    def copies(self, partition: int, next_offset: int, originals: Sequence[Original]) -> list[bytes]:
        """The bytes of copies of these records, the first of which is at or above `next_offset`; see `fitted`."""
        previous, made = next_offset - 1, []
        for one in originals:
            copy = IntentCopy(
                offset=one.offset,
                previous=previous,
                appended_at=one.appended_at,
                key=one.key,
                schema=one.schema,
                value=one.value,
                mac=b"",
            )
            made.append(encode(signed(self.secret, self.topic_id, partition, fitted(copy))))
            previous = one.offset
        return made

    def __repr__(self) -> str:
        return f"CopySigner(topic_id={self.topic_id!r})"


class KafkaIntents:
    """Reads vm.intents with a consumer of its own, without a group's offsets."""

    def __init__(self, kafka: KafkaSettings, topic: str, *, group: str) -> None:
        self._topic = topic
        self._consumer: Consumer = make_consumer(
            kafka, group_id=group, auto_offset_reset="earliest", fetch_wait_max_ms=int(WAIT_SECONDS * 1000)
        )
        self._places: dict[int, int] = {}
        """Offset that the consumer reads next, by partition."""

    def read(self, wanted: Mapping[int, int]) -> Mapping[int, Sequence[Original]]:
        """See IntentSource. Raises KafkaException."""
        if wanted.keys() != self._places.keys():
            self._consumer.assign([TopicPartition(self._topic, number, offset) for number, offset in wanted.items()])
            self._places = dict(wanted)
        for number, offset in wanted.items():
            if self._places[number] != offset:
                self._consumer.seek(TopicPartition(self._topic, number, offset))
                self._places[number] = offset
        found: dict[int, list[Original]] = {}
        for message in self._consumer.consume(CHUNK_RECORDS, WAIT_SECONDS):
            error = message.error()
            if error is not None:
                raise KafkaException(error)
            number, original = message.partition(), _original(message)
            if number in wanted and original.offset >= wanted[number]:
                found.setdefault(number, []).append(original)
                self._places[number] = original.offset + 1
        return found

    def close(self) -> None:
        """Leave."""
        self._consumer.close()


def _original(message: Message) -> Original:
    _, milliseconds = message.timestamp()
    key, value = message.key(), message.value()
    schema = dict(message.headers() or []).get(SCHEMA_HEADER)
    return Original(
        offset=message.offset() or 0,
        appended_at=milliseconds * 1_000_000,
        key=key if isinstance(key, bytes) else None,
        schema=schema if isinstance(schema, bytes) else None,
        value=value if isinstance(value, bytes) else b"",
    )


class CopySender:
    """An idempotent producer of its own, since flushing waits for everything in one. One thread at a time."""

    def __init__(self, kafka: KafkaSettings, topic: str, *, delivery_timeout_seconds: float) -> None:
        self._topic = topic
        self._flush_seconds = delivery_timeout_seconds + FLUSH_MARGIN_SECONDS
        self._producer = make_producer(kafka, linger_ms=0, delivery_timeout_ms=int(delivery_timeout_seconds * 1000))

    def send(self, copies: Mapping[int, Sequence[bytes]]) -> Mapping[int, int]:
        """Write copies, by partition; returns where the last of each partition that was delivered stands."""
        last: dict[int, int] = {}

        def report(error: KafkaError | None, message: Message) -> None:
            partition, offset = message.partition(), message.offset()
            if error is None and partition is not None and offset is not None:
                last[partition] = max(offset, last.get(partition, -1))

        headers = [(SCHEMA_HEADER, header_of(IntentCopy))]
        for partition, values in copies.items():
            for value in values:
                self._producer.produce(self._topic, value, INTENT_KEY, partition, headers=headers, on_delivery=report)
        self._producer.flush(self._flush_seconds)
        return last


class Copier:
    """Copies for all lanes, a chunk at a time."""

    def __init__(
        self,
        lanes: Lanes,
        source: IntentSource,
        send: Callable[[Mapping[int, Sequence[bytes]]], Mapping[int, int]],
        signer: CopySigner,
        *,
        settled: Callable[[], bool],
        end: EndProcess = end_process,
    ) -> None:
        """`settled` is False during a rebalance: what others may own by then is left to them."""
        self._lanes = lanes
        self._source = source
        self._send = send
        self._signer = signer
        self._settled = settled
        self._end = end
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="intents")
        self.copied = 0

    async def run(self) -> None:
        """Copy until cancelled."""
        try:
            while True:
                try:
                    copied = await self.copy()
                except KafkaException as error:
                    _log.warning("intents_unread", error=str(error))
                    copied = False
                if not copied:
                    await asyncio.sleep(WAIT_SECONDS / 2)
        except asyncio.CancelledError:
            return
        except Exception as error:
            self._end(error)

    async def copy(self) -> bool:
        """Copy what the cores lack, if anything comes within a second; True when a core got further by it."""
        lanes = {lane.partition: lane for lane in self._lanes.values() if lane.caught_up} if self._settled() else {}
        if not lanes:
            return False
        wanted = {partition: _core(lane).next_intent for partition, lane in lanes.items()}
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._executor, self._source.read, wanted)
        copies = {
            partition: self._signer.copies(partition, wanted[partition], originals)
            for partition, originals in found.items()
            if originals and self._is_ours(lanes[partition])
        }
        if not copies:
            return False
        ends = await loop.run_in_executor(self._executor, self._send, copies)
        if len(ends) < len(copies):
            _log.warning("intents_undelivered", partitions=sorted(copies.keys() - ends.keys()))
        deadline = loop.time() + APPLY_SECONDS
        while any(self._is_ours(lanes[one]) and lanes[one].next_offset <= end for one, end in ends.items()):
            if loop.time() > deadline:
                return False
            await asyncio.sleep(APPLY_POLL_SECONDS)
        self.copied += sum(len(copies[partition]) for partition in ends)
        return any(_core(lanes[partition]).next_intent > wanted[partition] for partition in ends)

    def close(self) -> None:
        """Give thread and connection back; waits for a read under way."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._source.close()

    def _is_ours(self, lane: Lane) -> bool:
        return self._settled() and self._lanes.get(lane.partition) is lane


def _core(lane: Lane) -> IntentCore:
    core = lane.core
    if not isinstance(core, IntentCore):
        raise TypeError(f"the core of partition {lane.partition} has no next_intent")
    return core
