"""Which input keeps ending the process: counted in the table's log, since the process that dies can not tell. Pure.

A process writes down at which input it begins, when it applies the first one after a load. One that finds its own next
input written there knows that the one before it died without getting any further:

| attempt | what is done |
|---|---|
| 1 | everything as ever |
| 2 | each input alone, durable before the next is applied: so the next death points at one input |
| 3 and later | that input part by part, each marked before it is applied; one that was marked at a death is left out |
| 5 and later | if no part was ever marked at a death, nothing of that input |

A worker that only loads, or gets no input, counts nothing; one that gets further begins at 1 again. Nor does one that
ends because the input is newer than itself: the input is right, and the next worker may be new enough.
"""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec

from schemas.codec import Record, SchemaVersion, decode, encode, header_of
from streams.runtime.stage import WHOLE, Row

TRIAL_KEY: Final = b"#trial"
"""Key of the row in the table's log; loaders of stages never see it."""
ALONE_FROM: Final = 2
ISOLATED_FROM: Final = 3
WHOLE_FROM: Final = 5
"""No part was ever marked at a death: none of them is at fault, but what they have in common."""
MOST_ALONE: Final = 500
"""Inputs applied alone after a death, about 5 ms each. What follows them is found by the deaths after that."""


class Trial(Record, frozen=True, kw_only=True):
    """An attempt to apply an input."""

    SCHEMA: ClassVar[SchemaVersion] = SchemaVersion(record="Trial", major=1, minor=0)

    offset: int
    attempts: int
    """Processes that began here, this one included; 0: none that says anything about the input."""
    until: int = -1
    """Inputs below are applied alone."""
    parts: tuple[bytes, ...] = ()
    """What is being applied of the input."""
    condemned: tuple[bytes, ...] = ()
    """Parts during which a process died."""


def next_trial(last: Trial | None, offset: int, end: int) -> Trial:
    """The trial of a process whose next input is at `offset` and whose input log ends at `end`."""
    if last is None or last.attempts < 1 or not (last.offset == offset or last.offset <= offset < last.until):
        return Trial(offset=offset, attempts=1)
    here = last.offset == offset
    condemned = [*last.condemned, *last.parts] if here else []
    if here and not condemned and last.attempts >= WHOLE_FROM - 1:
        condemned = [WHOLE]
    return Trial(
        offset=offset,
        # Deaths at inputs before this one say no more than that it may be at fault too: nothing of it was tried yet.
        attempts=last.attempts + 1 if here else min(last.attempts + 1, ISOLATED_FROM),
        until=max(last.until, min(end, offset + MOST_ALONE), offset + 1),
        condemned=tuple(dict.fromkeys(condemned)),
    )


def untried(trial: Trial) -> Trial:
    """What to write when this attempt says nothing about the input: as if it had not been made."""
    return msgspec.structs.replace(trial, attempts=trial.attempts - 1, parts=())


def row_of(trial: Trial) -> Row:
    """The row that says so."""
    return Row(TRIAL_KEY, encode(trial), header_of(Trial))


def trial_of(value: bytes, schema: bytes | None) -> Trial:
    """The trial in this row; raises RecordError."""
    return decode(Trial, value, schema)
