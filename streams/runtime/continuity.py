"""Which input record comes next in a partition, and what to do with any other. Pure.

The table's own `applied` offset decides, not the group's: acknowledgements follow the rows, so the group may be behind
(what comes again is skipped) and, after the table's log lost its end, ahead (then the inputs are read again).
"""

from __future__ import annotations

from enum import Enum

import msgspec

from infra.runtime.errors import OffsetHole, TopicMismatch


class Verdict(Enum):
    """What to do with an input record."""

    APPLY = "apply"
    REPEAT = "repeat"
    """Applied before: only acknowledge it."""
    HOLE = "hole"
    """Records before it are missing: find out where the log starts, then `cross`."""


class InputBounds(msgspec.Struct, frozen=True, kw_only=True):
    """What the broker says of one input partition at assignment. `end` is the offset of the next record written."""

    start: int
    end: int
    committed: int | None
    """The group's offset, None when it has none."""


class Crossed(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs [first_missing, next_offset) that fell off the log before they were read."""

    first_missing: int
    next_offset: int


def first_offset(applied: int, bounds: InputBounds, *, where: str) -> int:
    """The offset to apply first: behind `applied`, else the group's, else the start of the log.

    Raises TopicMismatch when the log ends before that: it was truncated or created anew, and every record in it would
    look like a repeat.
    """
    if applied >= 0:
        first = applied + 1
    elif bounds.committed is not None:
        first = bounds.committed
    else:
        first = bounds.start
    if first > bounds.end:
        raise TopicMismatch(
            f"the log ends at offset {bounds.end}, but everything below {first} was applied already",
            where=where,
            advice="the topic lost its end or was created anew: stop all workers and run `deltavisor topics adopt`",
        )
    return first


def judge(expected: int, offset: int) -> Verdict:
    """What to do with the record at `offset` when `expected` is the next to apply."""
    if offset == expected:
        return Verdict.APPLY
    return Verdict.REPEAT if offset < expected else Verdict.HOLE


def cross(expected: int, offset: int, log_start: int, *, where: str) -> Crossed:
    """The gap between `expected` and `offset`, when all of it lies below the start of the log now.

    Raises OffsetHole when any missing record may still exist: applying later ones would lose it without a trace.
    """
    if offset <= log_start:
        return Crossed(first_missing=expected, next_offset=offset)
    raise OffsetHole(
        f"expected offset {expected}, got {offset}, and the log starts at {log_start}",
        where=where,
        advice="nothing was applied or committed beyond the hole; the restart reads on from the last applied offset",
    )
