"""The contract between a stage's pure core and the runtime that feeds it.

Per assigned partition the runtime loads the table's log into a `PartitionLoader`, gets a `PartitionCore` from it, and
from then on only calls `apply` with each input record, in offset order without holes, and `seal` to collect what the
applied records produced. The core has no I/O, no clock and no logging: time comes in as ticks in the records.

Order of commits for a sealed batch k: outputs(k) delivered, then rows(k) delivered, then the inputs acknowledged.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, NamedTuple, Protocol, runtime_checkable

BOOKKEEPING: Final = b"#"
"""Keys of a table that begin with it are the stage's own: readers skip them, and they are written after all others."""
PARTITION_KEY: Final = b"#partition"
"""Key of the row that says up to which input the table goes; the last of every batch."""


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
    """Details first, heads after them, the partition's own row (with `applied`) last; one row per key.

    A batch of at least one input always has the partition's row, since a restart reads on behind the `applied` found
    there: inputs above it are applied again.
    """


Fits = Callable[[str, int], bool]
"""Whether a record of so many bytes (key and value) is within the limit of this topic (bare name)."""

WHOLE: Final = b""
"""Condemned instead of a part: nothing of the input may be applied."""

Marks = Callable[[Sequence[bytes]], object]
"""Told the names of the parts of an input before they are applied; returns when that can be read after a crash."""


class Counts(NamedTuple):
    """A number the shell adds to a metric; `labels` are from bounded sets.

    `metric` is the name of a counter or gauge in `infra.runtime.metrics` without namespace, component and `_total`:
    its `what`, with the unit if it has one (`equal_facets`, `changes`); a gauge is moved by the amount, down as well.
    """

    metric: str
    labels: tuple[str, ...]
    """Values in the order in which the metric declares its labels."""
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

    def isolate(self, record: Input, condemned: Collection[bytes], fits: Fits, before: Marks) -> Demand:
        """Apply the next input with care, since it raised, ended the process or made a record too large.

        The names of the parts are the same in every run. A part that is in `condemned` (it ended a process), or that
        raises, or makes a record that does not fit, leaves no trace but a dead letter; whom it is about is shown as
        not known and asked to say everything again. All else is as after `apply`. Slow. Raises what `apply` may raise.
        """
        ...

    def reassert(self, key: bytes) -> None:
        """Write the row of this key again with the next batch, or its deletion: somebody else wrote it late."""
        ...

    def seal(self) -> Batch:
        """Outputs and rows of everything applied since the last seal (both empty when there was nothing)."""
        ...

    def drain_counts(self) -> list[Counts]:
        """Counts since the last call, for metrics."""
        ...


@runtime_checkable
class TickedCore(PartitionCore, Protocol):
    """A core whose partition of the input log carries ticks, which the runtime makes."""

    expected_tick: int
    """Number of the next tick that would count. Read again after each tick was applied, also after a refused one."""


@runtime_checkable
class IntentCore(PartitionCore, Protocol):
    """A core that takes intents, which the runtime copies into its input log."""

    @property
    def next_intent(self) -> int:
        """Offset in the log of intents of the first record that no applied copy holds."""
        ...


class PartitionLoader(Protocol):
    """Builds a core from the table's log; rows come in log order, deletes included."""

    def add(self, key: bytes, value: bytes | None, schema: bytes | None) -> None:
        """Take one row; keeps the highest (incarnation, version, applied), not simply the last."""
        ...

    def finish(self) -> PartitionCore:
        """The core as the log leaves it. Raises NewerMajorError when a row was written by a newer major."""
        ...


class Kept(NamedTuple):
    """What the partition's own row says of the logs that the table belongs to."""

    foreign: bool
    """The input is another topic than the one that the table was made from."""
    table_start: int
    """Where the table's log may begin; if it begins later, rows were cut off."""
    rules_version: int = 0
    """Rules under which the row was written."""


@runtime_checkable
class GuardedLoader(PartitionLoader, Protocol):
    """A loader that can tell an empty table from a lost one."""

    kept: Kept | None
    """By the last partition row; None when there was none."""


class Stage(Protocol):
    """One kind of stage: where it reads, where its table's log is, and how a partition's core is made."""

    name: str
    inputs: tuple[str, ...]
    """Exactly one topic: `applied` is one offset per partition, and one log decides the order of everything."""
    table_topic: str
    outputs: tuple[str, ...]
    """Every topic that a batch may name, bare names."""

    def loader(self, partition: int) -> PartitionLoader:
        """A loader for an assigned partition."""
        ...

    def metric_names(self) -> Iterable[str]:
        """Names that `drain_counts` may use (checked once at start)."""
        ...


@runtime_checkable
class IntentStage(Stage, Protocol):
    """A stage whose cores are `IntentCore`s."""

    intents_topic: str
    intents_topic_id: str
    """Covered by the signature of a copy; empty when there is no such topic."""
    intent_secret: bytes
    """Signs the copies; empty when there is none."""


@runtime_checkable
class TickedStage(Stage, Protocol):
    """A stage whose cores are `TickedCore`s."""

    rules_version: int
    """Version of the rules that this program applies; travels in every tick."""
