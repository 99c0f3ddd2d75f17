"""The error tree. The class says what the caller must do, the exit code tells the supervisor which it was.

    DeltavisorError                 70
    ├── ConfigError                 64  exit before the first message; a restart will not help
    ├── InvalidRecord               77  dead-letter that record, under a limit (TooManyBad)
    ├── TransientError              69  pause, back off with jitter and a cap, try the same again
    │   └── NeighbourUnreachable    69  a server does not answer: try again until the deadline, then exit
    ├── PartialWrite                70  some of a batch was written: go on with the rejected indices alone
    └── FatalError                  70  stop without committing; the supervisor restarts the process
        ├── SelfFenced              71  stood still too long to still own its partitions
        ├── WatchdogExpired         72  a loop, the group membership or the progress is stuck
        ├── OffsetHole              73  an input offset is missing; nothing later may be applied
        ├── NewerVersion            74  met rules or a schema major newer than this program: upgrade it
        ├── TopicMismatch           75  the topics are not what this program was told: no restart will help
        ├── DatabaseRefused         76  schema or permission: no restart will help
        └── TooManyBad              77  too many bad records: something is wrong at their source

A message says what is wrong, where, and what to do, in this order of reading: ``where: what; advice``.
Library errors are classified by code (SQLSTATE, Kafka error code), never by their text, and always chained.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What a process of ours ends with. Supervisors restart on 69 to 73; 64 and 74 to 77 wait for a human."""

    OK = 0
    """Asked to stop, and stopped in order."""
    USAGE = 2
    """Wrong command line, as every command-line program says it."""
    CONFIG = 64
    """A setting is unknown, malformed or contradicts another."""
    UNREACHABLE = 69
    """Kafka, PostgreSQL or another neighbour did not answer, and the deadline for trying has passed."""
    INTERNAL = 70
    """A failed delivery, a stop that did not end in time, or an error nobody foresaw."""
    SELF_FENCED = 71
    """The process stood still so long that another may own its partitions."""
    WATCHDOG = 72
    """A heartbeat stopped or progress did."""
    OFFSET_HOLE = 73
    """The next input offset was not the previous one plus one."""
    NEWER_VERSION = 74
    """Newer rules or a newer schema major were met."""
    TOPIC_MISMATCH = 75
    """Partition counts, cleanup or limits of the topics differ from the settings."""
    DATABASE_REFUSED = 76
    """The database lacks a table, a migration or a permission."""
    TOO_MANY_BAD = 77
    """More bad records than the limit allows."""
    INTERRUPTED = 130
    """Ctrl-C came again while stopping: ended at once, without an orderly close."""

    @property
    def worth_restarting(self) -> bool:
        """True when the same process, started again unchanged, may succeed."""
        return ExitCode.UNREACHABLE <= self <= ExitCode.OFFSET_HOLE


class DeltavisorError(Exception):
    """Everything we raise on purpose.

    ``what`` is one clause without a full stop, ``where`` names the file, topic, table or address, ``advice``
    says what the reader can do about it. None of them may hold a secret or a payload: they are logged as is.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL

    def __init__(self, what: str, *, where: str | None = None, advice: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.advice = advice

    def __str__(self) -> str:
        located = f"{self.where}: {self.what}" if self.where else self.what
        return f"{located}; {self.advice}" if self.advice else located


class ConfigError(DeltavisorError):
    """The settings cannot be used. Raised before anything was read or written; a restart repeats it."""

    exit_code = ExitCode.CONFIG


class InvalidRecord(DeltavisorError):
    """One message cannot be used: dead-letter it with its position and reason, count it, go on.

    ``reason`` lists every bad field with its path and names no payload.
    """

    exit_code = ExitCode.TOO_MANY_BAD

    def __init__(self, topic: str, partition: int, offset: int, reason: str) -> None:
        super().__init__(
            reason,
            where=f"{topic}[{partition}]@{offset}",
            advice="the record is dead-lettered; look at it with `deltavisor dlq list`",
        )
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.reason = reason


class TransientError(DeltavisorError):
    """The same request may succeed later: pause the partition, wait, try again.

    ``retry_after_seconds`` is what the neighbour asked for; None when it said nothing and the caller's
    back-off decides.
    """

    exit_code = ExitCode.UNREACHABLE

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        advice: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(what, where=where, advice=advice)
        self.retry_after_seconds = retry_after_seconds


class NeighbourUnreachable(TransientError):
    """A server does not answer. ``where`` is its kind and address, such as ``Kafka at 127.0.0.1:9092``."""


class PartialWrite(DeltavisorError):
    """Part of a batch was written. Both are ascending indices into that batch, together all of it."""

    def __init__(self, accepted: Sequence[int], rejected: Sequence[int], *, where: str | None = None) -> None:
        super().__init__(f"{len(rejected)} of {len(accepted) + len(rejected)} records were rejected", where=where)
        self.accepted = tuple(accepted)
        self.rejected = tuple(rejected)


class FatalError(DeltavisorError):
    """Stop now and commit nothing: what was done since the last commit is done again after the restart."""


class SelfFenced(FatalError):
    """This process stood still so long that its partitions may have another owner by now."""

    exit_code = ExitCode.SELF_FENCED


class WatchdogExpired(FatalError):
    """Something that must move does not."""

    exit_code = ExitCode.WATCHDOG


class OffsetHole(FatalError):
    """An input offset is missing. Applying what follows would lose changes without a trace."""

    exit_code = ExitCode.OFFSET_HOLE


class NewerVersion(FatalError):
    """Rules or a schema major newer than this program were met. Older code must not touch newer state."""

    exit_code = ExitCode.NEWER_VERSION


class TopicMismatch(FatalError):
    """The topics are not what the settings and declarations say. ``what`` has one sentence per problem."""

    exit_code = ExitCode.TOPIC_MISMATCH


class DatabaseRefused(FatalError):
    """The database answers, and refuses: a table, a migration or a permission is missing."""

    exit_code = ExitCode.DATABASE_REFUSED


class TooManyBad(FatalError):
    """The limit of bad records was passed: the stream is wrong at its source, so stop and say so."""

    exit_code = ExitCode.TOO_MANY_BAD
