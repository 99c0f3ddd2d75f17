"""The table of a stage while no worker runs: load a partition, look at it, write a batch.

The order of writing is the workers': outputs durable, rows durable, the partition's own row last. While a rebuild is
under way a RebuildRow keeps everybody else from loading the partition.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar, cast

import msgspec

from infra.rebuild.dump import WholeBatchStage
from infra.rebuild.workers import group_of
from infra.runtime.settings import KafkaSettings
from infra.runtime.topics import HOST_REPORTS, HOST_STATE, FoundTopic
from schemas.codec import encode, header_of
from streams.hosts.app import TOPICS, HostsStage
from streams.hosts.core import HostsConfig, HostsCore
from streams.runtime import selftest
from streams.runtime.continuity import InputBounds
from streams.runtime.kept import REBUILD_KEY, RebuildRow, TableLog, loss_of
from streams.runtime.loading import TableReader
from streams.runtime.sender import KafkaSender
from streams.runtime.sender import PartitionRow as Placed
from streams.runtime.stage import PARTITION_KEY, Batch, Row, Stage
from streams.vms.app import VmsStage
from streams.vms.core import VmsCore

DELIVERY_SECONDS = 60.0
NO_SECRET = b""
"""Nothing here writes or judges a tick."""

C = TypeVar("C", HostsCore, VmsCore)


class Opened(msgspec.Struct, Generic[C], frozen=True, kw_only=True):
    """A partition as it was found."""

    partition: int
    core: C
    bounds: InputBounds
    table: TableLog

    @property
    def loss(self) -> str | None:
        """Why no worker may use the table; None when one may."""
        return loss_of(self.table, self.bounds)

    @property
    def foreign(self) -> bool:
        """The input is another topic than the table's."""
        return self.table.kept is not None and self.table.kept.foreign

    @property
    def beyond_the_end(self) -> bool:
        """The input ends before what was applied already: it lost its end."""
        return self.core.applied >= self.bounds.end


class Tables(Generic[C]):
    """The table of one stage."""

    def __init__(self, kafka: KafkaSettings, stage: Stage) -> None:
        self.stage = stage
        self.group = group_of(kafka, stage.name)
        self.input_topic = stage.inputs[0]
        self._reader = TableReader(kafka, stage, group=self.group, mending=True)
        self._sender = KafkaSender(
            kafka,
            table_topic=stage.table_topic,
            topics=selftest.topics_of(stage),
            delivery_timeout_seconds=DELIVERY_SECONDS,
        )

    def open(self, partition: int) -> Opened[C]:
        """Load a partition, usable or not. Raises NeighbourUnreachable, RecordError, NewerMajorError."""
        loaded = self._reader.load([partition], [], abandoned=threading.Event())
        return Opened(
            partition=partition,
            core=cast(C, loaded.cores[partition]),
            bounds=loaded.bounds[partition],
            table=loaded.tables[partition],
        )

    def begin(self, partition: int, at: int) -> None:
        """From here on until `write(…, last=True)` no worker loads this partition."""
        row = Row(REBUILD_KEY, encode(RebuildRow(at=at)), header_of(RebuildRow))
        self._sender.send([Placed(partition, row)], [])

    def write(self, partition: int, batch: Batch, *, last: bool) -> None:
        """Send a batch in the workers' order; only the last one makes it count. Raises DeliveryFailed."""
        self._sender.send([], batch.outputs)
        details = [row for row in batch.rows if row.key != PARTITION_KEY]
        self._send(partition, details)
        if last:
            own = [row for row in batch.rows if row.key == PARTITION_KEY]
            self._send(partition, own)
            self._send(partition, [Row(REBUILD_KEY, None, None)])

    def _send(self, partition: int, rows: Sequence[Row]) -> None:
        self._sender.send([Placed(partition, row) for row in rows], [])


def hosts_tables(
    kafka: KafkaSettings,
    partitions: int,
    found: Mapping[str, FoundTopic],
    *,
    log: int = 1,
    another_log: frozenset[int] = frozenset(),
    whole_batches: bool = False,
    newer_rules: bool = False,
) -> Tables[HostsCore]:
    """The hosts stage's; `log`: generation of host.reports where the table does not say it.

    `whole_batches`: leave out rows of a batch that is not finished. `newer_rules`: also take what newer rules wrote.
    """
    config = HostsConfig(
        topics=TOPICS,
        partitions=partitions,
        tick_secret=NO_SECRET,
        reports_topic_id=found[HOST_REPORTS].topic_id,
        state_topic_id=found[HOST_STATE].topic_id,
        log=log,
        another_log=another_log,
        newer_rules=newer_rules,
    )
    stage = HostsStage(config)
    return Tables(kafka, WholeBatchStage(stage, stage.loader) if whole_batches else stage)


def vms_tables(
    kafka: KafkaSettings,
    partitions: int,
    found: Mapping[str, FoundTopic],
    *,
    another_log: frozenset[int] = frozenset(),
    whole_batches: bool = False,
    newer_rules: bool = False,
) -> Tables[VmsCore]:
    """The vms stage's; the rest as for the hosts stage's."""
    ids = {topic: description.topic_id for topic, description in found.items()}
    stage = VmsStage(partitions, ids, another_log=another_log, newer_rules=newer_rules)
    return Tables(kafka, WholeBatchStage(stage, stage.loader) if whole_batches else stage)
