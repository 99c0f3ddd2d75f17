"""Fakes of what the outbox and the intake touch: a core, a feed, a sender that keeps the order of everything."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from typing import NamedTuple

from schemas.codec import NewerMajorError
from streams.runtime.inputs import InputRecord
from streams.runtime.sender import DeliveryFailed, PartitionRow
from streams.runtime.stage import WHOLE, Batch, Counts, Demand, Fits, Input, Marks, Output, Row
from streams.runtime.trials import TRIAL_KEY, Trial, trial_of


class Step(NamedTuple):
    """One thing that happened: `output`, `row` or `ack`, of the input at this offset."""

    what: str
    partition: int
    offset: int


class Journal:
    """What happened, in order. Appended to from two threads; each append is atomic."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def positions(self, what: str) -> dict[tuple[int, int], int]:
        """Where in the journal each (partition, offset) first stands."""
        found: dict[tuple[int, int], int] = {}
        for index, step in enumerate(self.steps):
            if step.what == what:
                found.setdefault((step.partition, step.offset), index)
        return found


class EchoCore:
    """Gives one output and one row per input; keys starting with `quiet` are not urgent, `newer` raises.

    `poison` raises when it is applied whole, `unsealable` when the batch is sealed, `hopeless` at either whatever is
    left out; `large` makes an output of 1,000 bytes. What is isolated gives an output with the value `apart`.
    """

    def __init__(self, partition: int = 0, applied: int = -1) -> None:
        self.partition = partition
        self.applied = applied
        self.expected_tick = 1
        self.gaps: list[tuple[int, int]] = []
        self.inputs: list[Input] = []
        self.isolated: list[tuple[int, tuple[bytes, ...]]] = []
        self.reasserted: list[bytes] = []
        self._batch = Batch([], [])
        self._unsealable = False

    def apply(self, record: Input) -> Demand:
        if record.key == b"newer":
            raise NewerMajorError("Work/2.0 was written by another major version")
        if record.key != b"liar":
            self.applied = record.offset
        self.inputs.append(record)
        if record.key in (b"poison", b"hopeless"):
            self._batch.outputs.append(Output("out", self.partition, b"half/0", b"", ()))
            raise ZeroDivisionError("no rule for this")
        self._unsealable = self._unsealable or record.key == b"unsealable"
        return self._answer(record, b"x" * 1_000 if record.key == b"large" else b"")

    def isolate(self, record: Input, condemned: Collection[bytes], fits: Fits, before: Marks) -> Demand:
        if record.key == b"newer":
            raise NewerMajorError("Work/2.0 was written by another major version")
        self.isolated.append((record.offset, tuple(condemned)))
        if record.key == b"hopeless" and WHOLE not in condemned:
            self._unsealable = True
        before([b"part of %d" % record.offset])
        if record.key == b"two parts":
            before([b"second part"])
        if record.key == b"tail":
            before([])
        self.applied = record.offset
        return self._answer(record, b"apart")

    def reassert(self, key: bytes) -> None:
        self.reasserted.append(key)

    def _answer(self, record: Input, value: bytes) -> Demand:
        name = f"{self.partition}/{record.offset}".encode()
        self._batch.outputs.append(Output("out", self.partition, name, value, ()))
        self._batch.rows.append(Row(name, b"", None))
        return Demand(records=2, urgent=record.key != b"quiet")

    def gap(self, first_missing: int, next_offset: int) -> None:
        self.gaps.append((first_missing, next_offset))

    def seal(self) -> Batch:
        if self._unsealable:
            raise OverflowError("can't serialize")
        batch, self._batch = self._batch, Batch([], [])
        return batch

    def drain_counts(self) -> list[Counts]:
        return []


class FakeRecord:
    """As much of aiokafka's record as is read."""

    def __init__(
        self, partition: int, offset: int, key: bytes | None = None, headers: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        self.topic = "in"
        self.partition = partition
        self.offset = offset
        self.key = key
        self.value: bytes | None = b"value"
        self.headers = headers
        self.timestamp = 1_700_000_000_123


class JournalFeed:
    """Writes acknowledgements down."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def ack(self, record: InputRecord, /) -> object:
        self._journal.steps.append(Step("ack", record.partition, record.offset))
        return True


class JournalSender:
    """Delivers when `gate` is open; fails the deliveries after `failures_after` sends."""

    def __init__(self, journal: Journal, failures_after: int | None = None) -> None:
        self._journal = journal
        self._failures_after = failures_after
        self.gate = threading.Event()
        self.gate.set()
        self.sends: list[tuple[int, int]] = []
        """Rows and outputs of each send."""
        self.purged = False
        self.refuses_outputs = False
        self.trials: list[Trial] = []
        self.values: dict[tuple[int, bytes | None], bytes | None] = {}

    def send(self, rows: Sequence[PartitionRow], outputs: Sequence[Output]) -> None:
        assert self.gate.wait(5)
        if self._failures_after is not None and len(self.sends) >= self._failures_after:
            raise DeliveryFailed("not delivered")
        if self.refuses_outputs and outputs:
            raise DeliveryFailed("outputs are not delivered")
        self.sends.append((len(rows), len(outputs)))
        for partition, row in rows:
            if row.key == TRIAL_KEY:
                self.trials.append(trial_of(row.value or b"", row.schema))
            else:
                self._note("row", partition, row.key)
        for output in outputs:
            self.values[(output.partition, output.key)] = output.value
            self._note("output", output.partition, output.key or b"")

    def fail_after(self, sends: int) -> None:
        """Fail all but the next sends, this many of them."""
        self._failures_after = len(self.sends) + sends

    def purge(self) -> None:
        self.purged = True

    def _note(self, what: str, partition: int, key: bytes) -> None:
        self._journal.steps.append(Step(what, partition, int(key.split(b"/")[1])))
