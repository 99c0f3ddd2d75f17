"""Makes the sink's positions belong to the topics as they are now.

A topic that was created again begins at its start. Where its changes follow what the rows hold, the sink simply reads
on; where some are missing, its position says so, and the sink takes whole states first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
import psycopg

from infra.agreement.topics import messages
from infra.rebuild.workers import log_bounds
from infra.runtime.errors import FatalError, NeighbourUnreachable
from infra.runtime.settings import KafkaSettings
from infra.runtime.topics import HOST_CHANGES, VM_CHANGES, FoundTopic, TopicSet
from schemas.ids import key_of, partition_of, uuid_bytes
from sinks.postgres.connection import connect, where
from sinks.postgres.positions import BEFORE_THE_START, Position, move_positions, read_positions
from sinks.postgres.settings import Database
from sinks.postgres.sqlstate import describe

TOPICS: Final = (VM_CHANGES, HOST_CHANGES)
Orders = Mapping[bytes, tuple[int, int]]
"""(incarnation, version) by id of VM or host."""


class _Frame(msgspec.Struct, frozen=True):
    """What every change begins with, as far as order goes."""

    incarnation: int
    version: int


class SinkState(msgspec.Struct, frozen=True, kw_only=True):
    """What the database says before anything is moved; topics by their names on the broker."""

    positions: Mapping[tuple[str, int], Position]
    orders: Orders


def read_sink(database: Database, kafka: KafkaSettings) -> SinkState:
    """Positions and versions of all rows. Raises NeighbourUnreachable, DatabaseRefused, FatalError."""
    names = [kafka.topic_prefix + topic for topic in TOPICS]
    try:
        with connect(database, application_name="deltavisor-adopt") as connection:
            positions = read_positions(connection, names)
            orders: dict[bytes, tuple[int, int]] = {}
            for statement in (
                b"SELECT vm_id, incarnation, version FROM vm",
                b"SELECT host_id, incarnation, version FROM host",
            ):
                for subject, incarnation, version in connection.execute(statement):
                    orders[subject.bytes] = incarnation, version
    except psycopg.OperationalError as error:
        raise NeighbourUnreachable(describe(error), where=where(database)) from error
    except psycopg.Error as error:
        raise FatalError(f"the tables can not be read ({describe(error)})", where=where(database)) from error
    return SinkState(positions=positions, orders=orders)


def starts_of(kafka: KafkaSettings, topic: str, found: FoundTopic, sink: SinkState) -> dict[int, int]:
    """From where on the sink has not read this topic; from its start where it is another topic than it was."""
    bounds = log_bounds(kafka, topic, found.partitions)
    starts = {}
    for part, (low, high) in bounds.items():
        position = sink.positions.get((found.name, part))
        kept = position is not None and position.topic_id == found.topic_id and position.next_offset <= high
        starts[part] = max(low, position.next_offset) if kept and position is not None else low
    return starts


def plan_positions(
    kafka: KafkaSettings,
    topics: TopicSet,
    found: Mapping[str, FoundTopic],
    sink: SinkState,
    heads: Mapping[str, Orders],
) -> list[Position]:
    """The positions that have to move, none where the topics are those that the rows came from.

    `heads`: by topic, where every VM or host stands in the tables of the stages.
    """
    moved = []
    for topic in TOPICS:
        now = found[topic]
        bounds = log_bounds(kafka, topic, now.partitions)
        wrong = {
            part: low
            for part, (low, high) in bounds.items()
            if (position := sink.positions.get((now.name, part))) is not None
            and (position.topic_id != now.topic_id or position.next_offset > high)
        }
        if not wrong:
            continue
        behind = _behind(_firsts(kafka, topics, topic), sink.orders, heads[topic], now.partitions)
        for part, low in wrong.items():
            offset = BEFORE_THE_START if part in behind else low
            moved.append(Position(topic=now.name, part=part, next_offset=offset, topic_id=now.topic_id))
    return moved


def move(database: Database, positions: list[Position]) -> None:
    """Set the positions, all or none. Raises NeighbourUnreachable, FatalError."""
    if not positions:
        return
    try:
        with connect(database, application_name="deltavisor-adopt") as connection:
            move_positions(connection, positions)
    except psycopg.OperationalError as error:
        raise NeighbourUnreachable(describe(error), where=where(database)) from error
    except psycopg.Error as error:
        raise FatalError(f"the positions can not be moved ({describe(error)})", where=where(database)) from error


def _firsts(kafka: KafkaSettings, topics: TopicSet, topic: str) -> dict[bytes, tuple[int, int]]:
    """The first change of every subject that the topic holds."""
    decoder = msgspec.msgpack.Decoder(_Frame)
    firsts: dict[bytes, tuple[int, int]] = {}
    for message in messages(kafka, topics, topic):
        key, value = message.key(), message.value()
        if key is not None and value is not None:
            frame = decoder.decode(value)
            firsts.setdefault(uuid_bytes(key.decode("ascii")), (frame.incarnation, frame.version))
    return firsts


def _behind(firsts: Orders, rows: Orders, heads: Orders, partitions: int) -> set[int]:
    """Partitions in which some row will not come to its head by what the topic holds."""
    found = set()
    for subject, head in heads.items():
        row = rows.get(subject, (0, 0))
        if head <= row:
            continue
        first = firsts.get(subject)
        follows = first is not None and (
            (first[0] == row[0] and first[1] <= row[1] + 1) or (first[0] > row[0] and first[1] == 1)
        )
        if not follows:
            found.add(partition_of(key_of(subject), partitions))
    return found
