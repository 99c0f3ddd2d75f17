"""Rows that a former owner's requests bring into the table's log after the new owner has read it.

A loader takes the newest row of a key, wherever it stands. But compaction keeps the last one: a late row of a dead
owner, older in content, would in time be the only one left. So for two delivery timeouts after a load, by when nothing
of another writer can still be on its way, the owner marks its own rows, follows the log from where it stopped loading,
and has every key that somebody else wrote written again.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from infra.runtime.kafka import make_consumer
from infra.runtime.log import get_logger
from infra.runtime.settings import KafkaSettings
from streams.runtime.kept import REBUILD_KEY
from streams.runtime.lanes import Lane, Lanes
from streams.runtime.loading import SELFTEST_KEY
from streams.runtime.sender import MARK_HEADER

TIMEOUTS = 2
"""Delivery timeouts for which the log is followed: one for what the dead owner sent last, one to spare."""
CONSUME_SECONDS = 0.2
FOLLOWERS = 4
"""Loads that are followed at the same time; further ones wait for a thread, and follow for as long."""
MARK_BYTES = 8

Found = Callable[[int, bytes], object]
"""Told the partition and the key of a row of somebody else; any thread."""

_log = get_logger(__name__)


class Marked(Protocol):
    """A sender that can put a mark on its rows."""

    mark: bytes | None


class Reassertion:
    """Owned by the event loop; following is done in threads."""

    def __init__(
        self,
        kafka: KafkaSettings,
        table_topic: str,
        lanes: Lanes,
        sender: Marked,
        *,
        group: str,
        delivery_timeout_seconds: float,
    ) -> None:
        self._kafka = kafka
        self._topic = kafka.topic_prefix + table_topic
        self._lanes = lanes
        self._sender = sender
        self._group = group
        self._seconds = TIMEOUTS * delivery_timeout_seconds
        self._mark = os.urandom(MARK_BYTES)
        self._executor = ThreadPoolExecutor(FOLLOWERS, thread_name_prefix="reassertion")
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.rows = 0
        """Rows of others that were found."""

    def begin(self, ends: Mapping[int, int]) -> None:
        """These partitions were loaded up to these offsets; from now on whatever is not ours is late."""
        if not ends:
            return
        self._sender.mark = self._mark
        lanes = {partition: self._lanes[partition] for partition in ends if partition in self._lanes}
        task = asyncio.get_running_loop().create_task(self._follow(dict(ends), lanes))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def close(self) -> None:
        """Stop following."""
        self._closed = True
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._sender.mark = None

    async def _follow(self, ends: dict[int, int], lanes: dict[int, Lane]) -> None:
        loop = asyncio.get_running_loop()

        def found(partition: int, key: bytes) -> None:
            loop.call_soon_threadsafe(self._reassert, lanes.get(partition), key)

        try:
            await loop.run_in_executor(self._executor, self._read, ends, found)
        except KafkaException as error:
            _log.warning("late_rows_unknown", error=error.args[0].str(), partitions=sorted(ends))

    def _reassert(self, lane: Lane | None, key: bytes) -> None:
        """Have the row written again, if the partition is still the one that was loaded then."""
        if lane is None or self._lanes.get(lane.partition) is not lane:
            return
        self.rows += 1
        lane.core.reassert(key)
        _log.warning("late_row", topic=self._topic, partition=lane.partition, key=key.decode("ascii", "replace")[:120])

    def _read(self, ends: dict[int, int], found: Found) -> None:
        """Blocking: read on from these offsets until the time is over."""
        consumer = make_consumer(self._kafka, group_id=self._group, fetch_wait_max_ms=100)
        try:
            consumer.assign([TopicPartition(self._topic, partition, end) for partition, end in ends.items()])
            self._read_on(consumer, found)
        finally:
            consumer.close()

    def _read_on(self, consumer: Consumer, found: Found) -> None:
        deadline = time.monotonic() + self._seconds
        while not self._closed and time.monotonic() < deadline:
            for message in consumer.consume(1_000, CONSUME_SECONDS):
                key, partition = message.key(), message.partition()
                if (
                    message.error() is None
                    and key is not None
                    and partition is not None
                    and self._is_late(key, message)
                ):
                    found(partition, key)

    def _is_late(self, key: bytes, message: Message) -> bool:
        if key in (SELFTEST_KEY, REBUILD_KEY):
            return False
        return (MARK_HEADER, self._mark) not in (message.headers() or ())
