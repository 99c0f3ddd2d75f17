"""Which input keeps ending the process: counted in the table's log, since the process that dies can not tell. Pure.

A process writes down at which input it begins, when it applies the first one after a load. One that finds its own next
input written there knows that the one before it died without getting any further:

| attempt | what is done |
|---|---|
| 1 | everything as ever |
| 2 | each input alone, durable before the next is applied: so the next death points at one input |
| 3 and later | that input part by part, each marked before it is applied; what was marked at two deaths is left out |

Before its first part and behind its last the input is marked as a whole: if that stands there at two deaths, nothing
of it is applied. One death is not enough, since a process also dies for other reasons while something is marked: a mark
that can not be written, a kill from outside.

Only a death while the core works counts. From the second attempt on nothing else is under way when the attempt is
written down, and it is taken back once the core is done, before anything the input caused is sent: that this can not be
delivered, or that the process is fenced or ended meanwhile, is not the input's fault.

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
MOST_ALONE: Final = 500
"""Inputs applied alone after a death, about 5 ms each. What follows them is found by the deaths after that."""


class Trial(Record, frozen=True, kw_only=True):
    """An attempt to apply an input."""

    SCHEMA: ClassVar[SchemaVersion] = SchemaVersion(record="Trial", major=1, minor=1)

    offset: int
    attempts: int
    """Processes that began here, this one included; 0: none that says anything about the input."""
    until: int = -1
    """Inputs below are applied alone."""
    parts: tuple[bytes, ...] = ()
    """What the core is at: parts of the input, WHOLE outside of them; empty when it is not being isolated."""
    condemned: tuple[bytes, ...] = ()
    """Parts during which two processes died."""
    suspects: tuple[bytes, ...] = ()
    """Parts during which one did."""


def next_trial(last: Trial | None, offset: int, end: int) -> Trial:
    """The trial of a process whose next input is at `offset` and whose input log ends at `end`."""
    if last is None or last.attempts < 1 or not (last.offset == offset or last.offset <= offset < last.until):
        return Trial(offset=offset, attempts=1)
    here = last.offset == offset
    marked = last.parts if here else ()
    condemned = [*last.condemned, *(part for part in marked if part in last.suspects)] if here else []
    suspects = [*last.suspects, *marked] if here else []
    return Trial(
        offset=offset,
        # A death at an input that was applied alone points at it, but nothing of it was tried yet.
        attempts=last.attempts + 1 if here else ISOLATED_FROM,
        until=max(last.until, min(end, offset + MOST_ALONE), offset + 1),
        condemned=tuple(dict.fromkeys(condemned)),
        suspects=tuple(part for part in dict.fromkeys(suspects) if part not in condemned),
    )


def begun(trial: Trial) -> Trial:
    """What to write before the input is given to the core."""
    return msgspec.structs.replace(trial, parts=(WHOLE,)) if trial.attempts >= ISOLATED_FROM else trial


def untried(trial: Trial) -> Trial:
    """What to write when this attempt says nothing about the input: as if it had not been made."""
    return msgspec.structs.replace(trial, attempts=trial.attempts - 1, parts=())


def row_of(trial: Trial) -> Row:
    """The row that says so."""
    return Row(TRIAL_KEY, encode(trial), header_of(Trial))


def trial_of(value: bytes, schema: bytes | None) -> Trial:
    """The trial in this row; raises RecordError."""
    return decode(Trial, value, schema)
