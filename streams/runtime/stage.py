"""The contract between a stage's pure core and the runtime that feeds it.

Per assigned partition the runtime loads the table's log into a `PartitionLoader`, gets a `PartitionCore` from it, and
from then on only calls `apply` with each input record, in offset order without holes, and `seal` to collect what the
applied records produced. The core has no I/O, no clock and no logging: time comes in as ticks in the records.

Order of commits for a sealed batch k: outputs(k) delivered, then rows(k) delivered, then the inputs acknowledged.
"""

from collections.abc import Iterable
from typing import NamedTuple, Protocol


class Input(NamedTuple):
    """A Kafka record as a core sees it. `appended_at`: broker's log-append time, whole microseconds in ns."""

    partition: int
    offset: int
    appended_at: int
    key: bytes | None
    value: bytes
    schema: bytes | None


class Output(NamedTuple):
    """A record to produce. `topic` is the bare name (the runtime adds the prefix), `partition` is explicit."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


class Row(NamedTuple):
    """A changelog record of the table; value None deletes. It goes to the input's partition number."""

    key: bytes
    value: bytes | None
    schema: bytes | None


class Demand(NamedTuple):
    """What applying one record asks of the outbox."""

    records: int
    """Estimate of outputs and rows it added (bounds the work in flight)."""
    urgent: bool
    """False for ticks, heartbeats and forwards: they ride with the next batch, or go after a second."""


class Batch(NamedTuple):
    """All that the inputs applied since the last seal produced, encoded; nothing in it refers to live memory."""

    outputs: list[Output]
    rows: list[Row]
    """Details first, heads after them, the partition's own row (with `applied`) last; one row per key."""


class Counts(NamedTuple):
    """A number the shell adds to a metric; `labels` are from bounded sets."""

    metric: str
    labels: tuple[str, ...]
    amount: int


class PartitionCore(Protocol):
    """State and rules of one partition. Not thread-safe; owned by the event loop."""

    applied: int
    """Offset of the last applied input, -1 before the first; restored from the partition row."""

    def apply(self, record: Input) -> Demand:
        """Apply the next input; memory is ahead of the log from here until the batch is delivered.

        Malformed input never raises: it becomes a dead-letter output and a count. Raises only for what must stop
        the process (a newer schema major or rules version: `NewerMajorError`).
        """
        ...

    def gap(self, first_missing: int, next_offset: int) -> None:
        """Inputs [first_missing, next_offset) are gone for ever (below the log's start): ask for the truth again."""
        ...

    def seal(self) -> Batch:
        """Outputs and rows of everything applied since the last seal (both empty when there was nothing)."""
        ...

    def drain_counts(self) -> list[Counts]:
        """Counts since the last call, for metrics."""
        ...


class PartitionLoader(Protocol):
    """Builds a core from the table's log; rows come in log order, deletes included."""

    def add(self, key: bytes, value: bytes | None, schema: bytes | None) -> None:
        """Take one row; keeps the highest (incarnation, version, applied), not simply the last."""
        ...

    def finish(self) -> PartitionCore:
        """The core as the log leaves it. Raises NewerMajorError when a row was written by a newer major."""
        ...


class Stage(Protocol):
    """One kind of stage: where it reads, where its table's log is, and how a partition's core is made."""

    name: str
    inputs: tuple[str, ...]
    table_topic: str
    outputs: tuple[str, ...]

    def loader(self, partition: int) -> PartitionLoader:
        """A loader for an assigned partition."""
        ...

    def metric_names(self) -> Iterable[str]:
        """Names that `drain_counts` may use (checked once at start)."""
        ...
