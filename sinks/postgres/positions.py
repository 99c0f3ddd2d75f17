"""Where the sink goes on reading, looked at and moved by hand while no sink runs."""

from collections.abc import Iterable, Mapping

import msgspec

from sinks.postgres.connection import Connection

BEFORE_THE_START = -1
"""Position that says: changes before the topic's start are missing, take whole states first."""

_READ = "SELECT topic, part, next_offset, topic_id::text FROM sink_position WHERE topic = ANY (%s)"
_MOVE = """
INSERT INTO sink_position AS p (topic, part, epoch, next_offset, topic_id) VALUES (%s, %s, 1, %s, %s)
ON CONFLICT (topic, part) DO UPDATE
SET epoch = p.epoch + 1, next_offset = excluded.next_offset, topic_id = excluded.topic_id
"""


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """A row of sink_position."""

    topic: str
    part: int
    next_offset: int
    topic_id: str


def read_positions(connection: Connection, topics: Iterable[str]) -> Mapping[tuple[str, int], Position]:
    """The rows of these topics (names on the broker), by topic and partition."""
    rows = connection.execute(_READ, (list(topics),)).fetchall()
    return {
        (topic, part): Position(topic=topic, part=part, next_offset=offset, topic_id=topic_id)
        for topic, part, offset, topic_id in rows
    }


def move_positions(connection: Connection, positions: Iterable[Position]) -> None:
    """Set these rows in one transaction; whoever still writes under the old ones is fenced off."""
    with connection.transaction():
        for one in positions:
            connection.execute(_MOVE, (one.topic, one.part, one.next_offset, one.topic_id))
