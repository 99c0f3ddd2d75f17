"""Is a loaded table whole, and of this input? An empty or a cut one must never be taken for the truth.

The input alone can not rebuild it: it begins a day ago, and what did not change since was never said again. So a worker
refuses, and a command (`deltavisor topics adopt`, `deltavisor rebuild`) makes table and input belong together again.
"""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec

from infra.runtime.errors import TopicMismatch
from schemas.codec import Record, SchemaVersion
from streams.runtime.continuity import InputBounds
from streams.runtime.stage import Kept

REBUILD_KEY: Final = b"#rebuild"
"""Key in a table's log: RebuildRow while a rebuild of the partition is under way, then deleted. No loader sees it."""

REBUILD_ADVICE: Final = "stop all workers and run `deltavisor rebuild`"
ADOPT_ADVICE: Final = "stop all workers and run `deltavisor topics adopt`"


class RebuildRow(Record, frozen=True, kw_only=True):
    """A rebuild of this partition was begun and is not finished."""

    SCHEMA: ClassVar[SchemaVersion] = SchemaVersion(record="RebuildRow", major=1, minor=0)

    at: int
    """When it was begun (ns): the time of all that it writes, so that a repeated rebuild writes the same."""


class TableLog(msgspec.Struct, frozen=True, kw_only=True):
    """What reading one partition of a table's log showed."""

    start: int
    """Offset of the first record that the log still has."""
    kept: Kept | None
    rebuilding_since: int | None = None
    """`at` of a rebuild that was begun and not finished."""


def loss_of(table: TableLog, bounds: InputBounds) -> str | None:
    """Why this table can not be believed, in words; None when it can.

    A table without its own row is lost when its input was read before, or began to be deleted unread: a fleet that
    starts for the first time has neither.
    """
    if table.rebuilding_since is not None:
        return "a rebuild of this partition was begun and not finished"
    if table.kept is None:
        if bounds.committed is not None:
            return f"the table is empty, but its input was read up to offset {bounds.committed}"
        if bounds.start > 0:
            return f"the table is empty, and its input begins at offset {bounds.start}"
        return None
    if table.start > table.kept.table_start:
        return f"the table's log was cut: it begins at offset {table.start}, not at {table.kept.table_start}"
    return None


def require_kept(table: TableLog, bounds: InputBounds, *, table_where: str, input_where: str) -> None:
    """Raise TopicMismatch unless the table is whole and belongs to this input."""
    loss = loss_of(table, bounds)
    if loss is not None:
        raise TopicMismatch(loss, where=table_where, advice=REBUILD_ADVICE)
    if table.kept is not None and table.kept.foreign:
        raise TopicMismatch("the topic is another than the table was made from", where=input_where, advice=ADOPT_ADVICE)
