"""Three deliberately wrong orders of emit, remember and commit, to prove that the fault tests would notice.

They are composed here, from parts put in the place of the right ones; the product has no way to choose them. Run as
`python -m tests.faults.wrong ORDER --config FILE` it is a vms worker that works in that order.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from infra.runtime.failpoints import Failpoints, armed_in
from infra.runtime.lifecycle import run_service
from infra.runtime.log import configure_logging
from streams.runtime.breaking import BreakableSender, breaking
from streams.runtime.inputs import Feed, InputRecord
from streams.runtime.loading import Loaded, Reader
from streams.runtime.outbox import Outbox
from streams.runtime.sender import PartitionRow, Sender
from streams.runtime.settings import VmsStreamSettings
from streams.runtime.stage import Batch, Demand, Output, PartitionCore, Row
from streams.runtime.wiring import Wiring
from streams.runtime.worker import StreamService
from streams.vms.app import build


class RowsFirst:
    """The table before the output: a wave's outputs wait until its rows are durable."""

    def __init__(self, inner: Sender) -> None:
        self._inner = inner
        self._held: list[Output] = []

    def send(self, rows: Sequence[PartitionRow], outputs: Sequence[Output]) -> None:
        if rows:
            held, self._held = self._held, []
            self._inner.send(rows, ())
            if held:
                self._inner.send((), held)
        self._held += outputs

    def purge(self) -> None:
        self._inner.purge()


class LiveRow(Row):
    """A row whose value is what its key has by the time it is sent."""

    latest: Mapping[bytes, bytes | None]

    @property
    def value(self) -> bytes | None:
        return self.latest[self.key]


class EncodedAtFlush:
    """A core whose rows are serialised from memory when they are sent."""

    def __init__(self, inner: PartitionCore) -> None:
        self._inner = inner
        self._latest: dict[bytes, bytes | None] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def seal(self) -> Batch:
        batch = self._inner.seal()
        rows: list[Row] = []
        for row in batch.rows:
            self._latest[row.key] = row.value
            live = LiveRow(*row)
            live.latest = self._latest
            rows.append(live)
        return batch._replace(rows=rows)


class LiveRowsReader:
    """Gives such cores."""

    def __init__(self, inner: Reader) -> None:
        self._inner = inner

    def load(self, partitions: Sequence[int], kept: Sequence[int], **options: Any) -> Loaded:
        loaded = self._inner.load(partitions, kept, **options)
        cores: Any = {partition: EncodedAtFlush(core) for partition, core in loaded.cores.items()}
        return msgspec.structs.replace(loaded, cores=cores)


class _Unheard:
    def ack(self, record: InputRecord, /) -> object:
        return True


class AcksFirst(Outbox):
    """Acknowledges an input when it is applied, before anything it caused is sent."""

    def put(self, partition: int, core: PartitionCore, feed: Feed, record: InputRecord, demand: Demand) -> None:
        feed.ack(record)
        super().put(partition, core, _Unheard(), record, demand)


class TrustingReader:
    """Goes on where the group's offset is, whatever the table says."""

    def __init__(self, inner: Reader) -> None:
        self._inner = inner

    def load(self, partitions: Sequence[int], kept: Sequence[int], **options: Any) -> Loaded:
        loaded = self._inner.load(partitions, kept, **options)
        for partition, core in loaded.cores.items():
            core.applied = max(core.applied, (loaded.bounds[partition].committed or 0) - 1)
        return loaded


def _rows_first(right: Wiring, failpoints: Failpoints) -> Wiring:
    return msgspec.structs.replace(right, sender=lambda made: RowsFirst(BreakableSender(failpoints, made)))


def _encoded_at_flush(right: Wiring, failpoints: Failpoints) -> Wiring:
    return msgspec.structs.replace(right, reader=LiveRowsReader)


def _acks_first(right: Wiring, failpoints: Failpoints) -> Wiring:
    # The table's own offset would put it right: a worker that relies on acknowledgements has nothing else.
    return msgspec.structs.replace(right, outbox=AcksFirst, reader=TrustingReader)


ORDERS: Mapping[str, Callable[[Wiring, Failpoints], Wiring]] = {
    "rows-first": _rows_first,
    "encoded-at-flush": _encoded_at_flush,
    "acks-first": _acks_first,
}


def main(order: str, config: Path) -> int:
    """Run the worker; its exit code."""
    settings = VmsStreamSettings.load(config, os.environ, {})
    configure_logging(settings.log, component=settings.component, process=settings.instance)
    failpoints = armed_in(os.environ, settings.component) or Failpoints(settings.component, ())
    wiring = ORDERS[order](breaking(failpoints), failpoints)
    return int(run_service(StreamService(settings, build, wiring), settings=settings.lifecycle))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[3])))
