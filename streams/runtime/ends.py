"""Asks the broker where the input ends, without Faust: a consumer that reads nothing believes that it has no lag."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from infra.runtime.kafka import make_admin
from infra.runtime.log import get_logger
from infra.runtime.settings import KafkaSettings
from streams.runtime.lanes import Lanes

ASK_SECONDS = 10.0
"""Between two questions; progress is judged by the minute."""
REQUEST_SECONDS = 5.0

_log = get_logger(__name__)


class InputEnds:
    """Tells `tell` the ends of all owned partitions every ten seconds."""

    def __init__(
        self, kafka: KafkaSettings, topic: str, lanes: Lanes, tell: Callable[[dict[int, int]], object]
    ) -> None:
        self._topic = topic
        self._lanes = lanes
        self._tell = tell
        self._admin = make_admin(kafka)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="ends")

    async def run(self) -> None:
        """Ask until cancelled. An unreachable broker leaves the last answer standing."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(ASK_SECONDS)
            try:
                self._tell(await loop.run_in_executor(self._executor, self._ask, tuple(self._lanes)))
            except KafkaException as error:
                _log.warning("input_ends_unknown", error=error.args[0].str())

    def close(self) -> None:
        """Give the thread back."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _ask(self, partitions: Iterable[int]) -> dict[int, int]:
        asked = {TopicPartition(self._topic, partition): OffsetSpec.latest() for partition in partitions}
        if not asked:
            return {}
        futures = self._admin.list_offsets(asked, request_timeout=REQUEST_SECONDS)
        return {tp.partition: future.result().offset for tp, future in futures.items()}
