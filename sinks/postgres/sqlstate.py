"""What a database error means for the sink, decided by its SQLSTATE, never by its text.

A message from the server may quote row values (guests' addresses are in there), so `what` of our errors carries the
SQLSTATE and the name of the thing, and the server's own text only where it can not hold a value.
"""

from enum import Enum

import psycopg


class Verdict(Enum):
    """What to do after an error."""

    AGAIN = "again"
    """Roll back, wait, try the whole batch again on a new connection."""
    PARTITION = "partition"
    """A day of the history has no partition: make it, then again."""
    SCHEMA = "schema"
    """Table, column, type or permission: stop, a human has to act."""
    DATA = "data"
    """The server refuses a value."""
    BUG = "bug"
    """The server refuses what we sent: a mistake in this program."""


_CHECK_VIOLATION = "23514"
_FEATURE_NOT_SUPPORTED = "0A000"

_EXACT = {
    "22P03": Verdict.BUG,  # binary format: a length of ours is wrong
    "25006": Verdict.AGAIN,  # read only: a standby, until it is promoted
    "25P03": Verdict.AGAIN,  # we stood still within a transaction
    "26000": Verdict.AGAIN,  # a pooler gave us another connection, without our prepared statements
    "3D000": Verdict.SCHEMA,
    "3F000": Verdict.SCHEMA,
    "42P05": Verdict.AGAIN,  # as 26000: the statement exists already
    "55P03": Verdict.AGAIN,  # lock timeout
    "57014": Verdict.AGAIN,  # statement timeout, or an operator cancelled it
}
_CLASSES = {
    "08": Verdict.AGAIN,  # connection
    "22": Verdict.DATA,
    "23": Verdict.DATA,
    "28": Verdict.SCHEMA,  # authorization
    "40": Verdict.AGAIN,  # serialization, deadlock
    "42": Verdict.SCHEMA,  # undefined, no privilege
    "53": Verdict.AGAIN,  # disk full, memory, too many connections
    "54": Verdict.DATA,  # program limit, such as a row too large
    "57": Verdict.AGAIN,  # shutdown, crash recovery
    "58": Verdict.AGAIN,  # I/O error of the server
    "XX": Verdict.AGAIN,  # damaged page or internal error: the batch is not to blame, and nothing is lost by waiting
}


def verdict_of(error: psycopg.Error) -> Verdict:
    """Classify an error of the database or of the driver."""
    code = error.sqlstate
    if code is None:
        # Without a code the connection failed, or the driver refused before sending.
        return Verdict.AGAIN if isinstance(error, psycopg.OperationalError) else Verdict.BUG
    if code == _CHECK_VIOLATION and error.diag.constraint_name is None:
        return Verdict.PARTITION
    if code == _FEATURE_NOT_SUPPORTED:
        # "cached plan must not change result type" after an ALTER TABLE: a new connection plans anew.
        return Verdict.AGAIN
    return _EXACT.get(code) or _CLASSES.get(code[:2], Verdict.BUG)


def describe(error: psycopg.Error) -> str:
    """The error for a log line: its name and code, and what it is about, without row values."""
    about = [
        f"{kind} {name}"
        for kind, name in (
            ("table", error.diag.table_name),
            ("column", error.diag.column_name),
            ("constraint", error.diag.constraint_name),
        )
        if name
    ]
    name = type(error).__name__ if error.sqlstate is None else f"{type(error).__name__} ({error.sqlstate})"
    if error.sqlstate is None or verdict_of(error) is Verdict.SCHEMA:
        about.append(" ".join(str(error).split()))
    return ": ".join((name, ", ".join(about))) if about else name
