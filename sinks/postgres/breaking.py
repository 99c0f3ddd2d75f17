"""The parts of the sink that hit failpoints; built instead of the plain ones when a point of the sink is armed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import confluent_kafka
import psycopg
from psycopg.pq import TransactionStatus

from infra.runtime.failpoints import Failpoints
from sinks.postgres.connection import Connection, connect
from sinks.postgres.images import StateImages
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.worker import PostgresSink
from sinks.postgres.writer import APPLICATION_NAME, Writer


class BreakableCursor(psycopg.Cursor[tuple[Any, ...]]):
    """A cursor that may die behind each statement of a transaction, and within a COPY."""

    def execute(self, *arguments: Any, **options: Any) -> BreakableCursor:
        """See psycopg."""
        super().execute(*arguments, **options)
        if self.connection.info.transaction_status is TransactionStatus.INTRANS:
            self._points.hit("statement")
        return self

    @contextmanager
    def copy(self, *arguments: Any, **options: Any) -> Iterator[psycopg.Copy]:
        """See psycopg."""
        with super().copy(*arguments, **options) as copying:
            yield copying
            self._points.hit("copying")
        self._points.hit("statement")

    @property
    def _points(self) -> Failpoints:
        connection = self.connection
        if not isinstance(connection, BreakableConnection):
            raise TypeError("a breakable cursor belongs to a breakable connection")
        return connection.points


class BreakableConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that may die around every statement of a transaction, or be cut when COMMIT was sent."""

    points: Failpoints

    @contextmanager
    def transaction(self, savepoint_name: str | None = None, force_rollback: bool = False) -> Iterator[Any]:
        """See psycopg."""
        self.points.hit("before_begin")
        with super().transaction(savepoint_name, force_rollback) as transaction:
            self.points.hit("begun")
            yield transaction
            self.points.hit("before_commit")
            if self.points.reached("commit_sent", 1):
                self._commit_unheard()
        self.points.hit("committed")

    def _commit_unheard(self) -> None:
        """The server gets COMMIT; nobody hears what it says."""
        self.pgconn.send_query(b"COMMIT")
        self.pgconn.flush()
        self.points.fire("commit_sent")
        self.close()
        raise psycopg.OperationalError("the connection was cut after COMMIT was sent")


class BreakableWriter(Writer):
    """A writer that may die when it has taken a partition over."""

    def __init__(self, points: Failpoints, settings: PostgresSettings) -> None:
        self._points = points
        images = StateImages(settings.kafka, group=settings.group)
        super().__init__(settings.database, connector=lambda: _connect(points, settings), images=images)

    def take(self, topic: str, partition: int, topic_id: str, start: int) -> tuple[int, int, str]:
        """See Writer."""
        taken = super().take(topic, partition, topic_id, start)
        self._points.hit("position_taken")
        return taken


class BreakableSink(PostgresSink):
    """A sink that may die when it was given partitions."""

    def __init__(self, points: Failpoints, settings: PostgresSettings) -> None:
        super().__init__(settings, BreakableWriter(points, settings))
        self._points = points

    def _assigned(
        self, consumer: confluent_kafka.Consumer, partitions: Sequence[confluent_kafka.TopicPartition]
    ) -> None:
        super()._assigned(consumer, partitions)
        self._points.hit("assigned")


def _connect(points: Failpoints, settings: PostgresSettings) -> Connection:
    made = connect(settings.database, application_name=APPLICATION_NAME, kind=BreakableConnection)
    if not isinstance(made, BreakableConnection):
        raise TypeError("connected by another class than was asked for")
    made.points = points
    made.cursor_factory = BreakableCursor
    return made
