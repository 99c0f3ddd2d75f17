"""What was read and not yet handed on: changes in order, the offsets they span, and whether it is time. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from infra.runtime.errors import OffsetHole
from schemas.host_change import HostChange
from schemas.vm_change import VmChange
from sinks.postgres.incoming import Incoming, bad_record, read_change
from sinks.postgres.plan import Batch, Span
from sinks.postgres.settings import BatchSettings

TopicPart = tuple[str, int]
"""Topic name on the broker and partition."""


class Owned:
    """A partition that this process has taken over: its epoch, and the next offset to read and to hand on."""

    __slots__ = ("epoch", "handed_on", "next_offset")

    def __init__(self, epoch: int, next_offset: int) -> None:
        self.epoch = epoch
        self.next_offset = next_offset
        self.handed_on = next_offset


class Arrived(msgspec.Struct, frozen=True, gc=False):
    """A Kafka message, as far as the sink looks at it."""

    topic: str
    partition: int
    offset: int
    header: bytes | None
    value: bytes | None


class Gathering:
    """Collects messages of owned partitions into batches. `kinds` says which record each topic holds."""

    def __init__(self, settings: BatchSettings, kinds: Mapping[str, type[VmChange] | type[HostChange]]) -> None:
        self._settings = settings
        self._kinds = kinds
        self._begun_at = float("-inf")
        self.owned: dict[TopicPart, Owned] = {}
        self._vms: list[Incoming] = []
        self._hosts: list[Incoming] = []
        self._bytes = 0

    @property
    def rows(self) -> int:
        """Changes gathered."""
        return len(self._vms) + len(self._hosts)

    @property
    def room(self) -> int:
        """How many more changes the batch takes; none when it has enough bytes."""
        return 0 if self._bytes >= self._settings.bytes else max(0, self._settings.rows - self.rows)

    def own(self, partition: TopicPart, epoch: int, next_offset: int) -> None:
        """A partition was taken over."""
        self.owned[partition] = Owned(epoch, next_offset)

    def forget(self) -> None:
        """All partitions are gone, and with them what was read of them; the next owner reads it again."""
        self.owned.clear()
        self._clear()

    def add(self, message: Arrived) -> None:
        """Add the next message of its partition. Of partitions no longer owned it is dropped, they are read elsewhere.

        Raises OffsetHole, TooManyBad, NewerVersion.
        """
        owned = self.owned.get((message.topic, message.partition))
        if owned is None or message.offset < owned.next_offset:
            return
        if message.offset > owned.next_offset:
            raise OffsetHole(
                f"expected offset {owned.next_offset}, found {message.offset}",
                where=f"{message.topic}[{message.partition}]",
                advice="nothing was written; if they are gone from the topic, the restart takes whole states instead",
            )
        if message.value is None:
            raise bad_record("it has no value", message.topic, message.partition, message.offset)
        kind = self._kinds[message.topic]
        item = read_change(
            kind,
            message.value,
            message.header,
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
        )
        (self._vms if kind is VmChange else self._hosts).append(item)
        self._bytes += len(message.value)
        owned.next_offset += 1

    def wait_seconds(self, now: float) -> float:
        """How long to wait before the batch goes: not at all when it is full, or the last one began long enough ago.

        So the first change after a quiet time goes at once, and a stream of them goes together.
        """
        if not self.room:
            return 0.0
        return max(0.0, self._begun_at + self._settings.linger_seconds - now)

    def batch(self, now: float) -> Batch:
        """Hand on what was gathered, and begin anew."""
        self._begun_at = now
        spans = []
        for (topic, partition), owned in self.owned.items():
            if owned.handed_on != owned.next_offset:
                spans.append(
                    Span(
                        topic=topic,
                        partition=partition,
                        epoch=owned.epoch,
                        expected=owned.handed_on,
                        next_offset=owned.next_offset,
                    )
                )
                owned.handed_on = owned.next_offset
        batch = Batch(spans=tuple(sorted(spans, key=_place)), vms=tuple(self._vms), hosts=tuple(self._hosts))
        self._clear()
        return batch

    def _clear(self) -> None:
        self._vms = []
        self._hosts = []
        self._bytes = 0


def _place(span: Span) -> TopicPart:
    return span.topic, span.partition


def oldest_observed_at(batch: Batch) -> datetime | None:
    """When the oldest change of the batch was observed, by the agents' clocks."""
    times = [item.change.observed_at for item in (*batch.vms, *batch.hosts)]
    return datetime.fromtimestamp(min(times) / 1e9, UTC) if times else None
