"""Writes batches, each in one transaction: fence, heads, facets, history, commit. Never reads while all goes well.

    BEGIN
    1  move sink_position, if epoch and offset are still ours and as expected    0 rows: fenced, roll back
    2  per round: merge the heads behind their guard                             too few rows: slow path
    3             delete and upsert facet rows, merge managed fields
    4  COPY the history
    COMMIT

Whatever fails rolls the whole batch back. It can be written again at any time: the position tells whether it was.
The slow path reads the rows' versions once, drops what they hold, and writes the rest the same way. Where changes are
missing for good, it takes the whole state from the state topics (`images`), as soon as that is as new as what arrived.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from datetime import date, timedelta
from enum import Enum
from typing import NoReturn, cast

import msgspec
import psycopg

from infra.runtime.errors import DatabaseRefused, FatalError, SelfFenced, TooManyBad, TransientError
from infra.runtime.log import get_logger
from schemas.host_change import HostChange
from schemas.vm_change import VmChange
from sinks.postgres import statements
from sinks.postgres.binary import Array, uuids
from sinks.postgres.coalesce import Known, Missing
from sinks.postgres.connection import Connection, LoginRefused, connect, where
from sinks.postgres.images import ImageSource
from sinks.postgres.incoming import Incoming
from sinks.postgres.plan import Batch, Images, Plan, Round, Span, Step, Versions, plan
from sinks.postgres.settings import Database
from sinks.postgres.sqlstate import Verdict, describe, verdict_of

_log = get_logger(__name__)

APPLICATION_NAME = "deltavisor-sink-postgres"

DAYS_AHEAD = 3
"""Partitions are made for so many days after the newest one needed, so that midnight finds its own."""


class Standing(Enum):
    """What became of a batch whose commit has no known outcome."""

    COMMITTED = "committed"
    NOT_COMMITTED = "not committed"
    FENCED = "fenced"


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What a write did."""

    changes: int
    repeats: int = 0
    stale: int = 0
    repaired: int = 0
    """Rows that took the whole state, since changes before it are gone."""
    slow: bool = False
    """The rows had to be read to tell the new changes from those already there."""


class _NotNewError(Exception):
    """Fewer heads were written than the batch has: some of it is known already, or something is missing."""


class Writer:
    """One connection and what is known about it. Used by one thread at a time."""

    def __init__(
        self,
        settings: Database,
        *,
        connector: Callable[[], Connection] | None = None,
        images: ImageSource | None = None,
    ) -> None:
        """Without `images` a hole in the changes is raised as Missing."""
        self._images = images
        self._settings = settings
        self._place = where(settings)
        self._connect = connector or (lambda: connect(settings, application_name=APPLICATION_NAME))
        self._connection: Connection | None = None
        self._days: set[date] = set()
        self._expect_repeats = False
        self.server_version = 0

    def open(self) -> Connection:
        """The connection, made anew if there is none. Raises NeighbourUnreachable, DatabaseRefused.

        Once there was one, a refused login is taken for an operation at the server and tried again.
        """
        if self._connection is None or self._connection.closed:
            try:
                self._connection = self._connect()
            except LoginRefused as error:
                if self.server_version:
                    raise TransientError(error.what, where=error.where, advice=error.advice) from error
                raise
            self.server_version = self._connection.info.server_version
        return self._connection

    def close(self) -> None:
        """Give the connection back; what it had not committed is rolled back by the server."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def take(self, topic: str, partition: int, topic_id: str, start: int) -> tuple[int, int, str]:
        """Take a partition over from whoever has it: (epoch, next offset, topic id it was recorded with).

        `start` is where a partition begins that the table does not know. Raises TransientError, DatabaseRefused.
        """
        try:
            row = self.open().execute(statements.TAKE_POSITION, (topic, partition, start, topic_id)).fetchone()
        except psycopg.Error as error:
            self._fail(error)
        if row is None:
            raise FatalError("the position row came back empty", where=f"{self._place}, table sink_position")
        epoch, next_offset, recorded = row
        return int(epoch), int(next_offset), str(recorded)

    def prepare(self, batch: Batch) -> Plan | None:
        """Pack a batch; needs no connection once there was one. None for one with a hole. Raises TooManyBad."""
        try:
            return self._plan(batch)
        except Missing:
            return None

    def write(self, batch: Batch, prepared: Plan | None) -> Written:
        """Write a batch as one transaction, as prepared or, if some is there already or missing, by the slow path.

        Raises TransientError (nothing is written, or the outcome is unknown: ask `standing`; or the whole state of
        what is missing is not there yet), SelfFenced (another process owns a partition), TooManyBad, DatabaseRefused.
        """
        try:
            return self._write(batch, prepared)
        except psycopg.Error as error:
            self._fail(error)

    def standing(self, spans: Iterable[Span]) -> Standing:
        """Whether a batch of unknown outcome was committed. Raises TransientError."""
        wanted = {(span.topic, span.partition): span for span in spans}
        try:
            rows = self.open().execute(statements.READ_POSITIONS, ([topic for topic, _ in wanted],)).fetchall()
        except psycopg.Error as error:
            self._fail(error)
        found = {(topic, part): (epoch, offset) for topic, part, epoch, offset in rows}
        if all(found.get(key) == (span.epoch, span.next_offset) for key, span in wanted.items()):
            return Standing.COMMITTED
        if all(found.get(key) == (span.epoch, span.expected) for key, span in wanted.items()):
            return Standing.NOT_COMMITTED
        return Standing.FENCED

    def repair(self, span: Span, *, of_hosts: bool, rows: int, progress: Callable[[], object] = lambda: None) -> int:
        """Take every state that is newer than its row, then move the position over what is gone; how many were taken.

        In transactions of so many rows; killed between two, it is begun again and finds less to do. Raises as `write`.
        """
        if self._images is None:
            raise FatalError("this writer has no source of whole states", where=self._place)
        read = self._images.hosts if of_hosts else self._images.vms
        states = list(read(span.partition).values())
        repaired = 0
        standing = msgspec.structs.replace(span, next_offset=span.expected)
        for begin in range(0, len(states), rows):
            chunk = tuple(states[begin : begin + rows])
            batch = Batch(spans=(standing,), vms=() if of_hosts else chunk, hosts=chunk if of_hosts else ())
            repaired += self._repair(batch)
            progress()
        self._repair(Batch(spans=(span,)))
        return repaired

    def _repair(self, batch: Batch) -> int:
        try:
            connection = self.open()
            images = Images(
                vms={item.subject_id: item for item in batch.vms}, hosts={item.subject_id: item for item in batch.hosts}
            )
            taken = self._plan(batch, self._versions(connection, batch), images)
            self._execute(connection, taken)
        except psycopg.Error as error:
            self._fail(error)
        return taken.changes

    def ensure_days(self, days: Iterable[date]) -> None:
        """Make the history's partitions for these UTC days and a few after each. Raises TransientError and the rest."""
        try:
            self._ensure_days(self.open(), frozenset(days))
        except psycopg.Error as error:
            self._fail(error)

    def _write(self, batch: Batch, prepared: Plan | None) -> Written:
        connection = self.open()
        if prepared is not None and not self._expect_repeats:
            try:
                self._execute(connection, prepared)
            except _NotNewError:
                self._expect_repeats = True
            else:
                return Written(changes=prepared.changes, repeats=prepared.repeats, stale=prepared.stale)
        rest = self._across_holes(batch, self._versions(connection, batch))
        try:
            self._execute(connection, rest)
        except _NotNewError as error:
            raise FatalError(
                "rows changed between reading and writing them: another program writes to the tables",
                where=f"{self._place}, tables vm and host",
                advice="find and stop it: these tables belong to the sink alone",
            ) from error
        # One repeat is rarely alone: stay in the slow path until a batch has none.
        self._expect_repeats = rest.repeats > 0
        return Written(changes=rest.changes, repeats=rest.repeats, stale=rest.stale, repaired=rest.repaired, slow=True)

    def _across_holes(self, batch: Batch, known: Versions) -> Plan:
        """The plan without what is known; where changes are missing, with whole states in their place."""
        images = Images()
        for _ in (VmChange, HostChange):
            try:
                rest = self._plan(batch, known, images)
            except Missing as missing:
                if self._images is None:
                    raise
                images = _with_images_of(missing, images, self._images)
            else:
                return rest
        try:
            rest = self._plan(batch, known, images)
        except Missing as missing:
            raise TransientError(f"{missing.what}, and no state as new is there yet", where=missing.where) from missing
        return rest

    def _plan(self, batch: Batch, known: Versions | None = None, images: Images | None = None) -> Plan:
        try:
            return plan(batch, server_version=self.server_version, known=known, images=images)
        except (ValueError, OverflowError, struct.error) as error:
            first = batch.spans[0]
            raise TooManyBad(
                f"a value can not be stored: {error}",
                where=f"{first.topic}[{first.partition}], a batch from offset {first.expected}",
                advice="nothing of the batch was written; mend the writer of the record",
            ) from error

    def _execute(self, connection: Connection, prepared: Plan) -> None:
        if not prepared.days <= self._days:
            self._ensure_days(connection, prepared.days)
        with connection.transaction():
            cursor = connection.cursor()
            if _run(cursor, prepared.fence) != prepared.partitions:
                raise SelfFenced(
                    "another process has taken over a partition of this batch; nothing of it was written",
                    where=f"{self._place}, table sink_position",
                    advice="the process ends and joins the group anew",
                )
            for round_ in prepared.rounds:
                _write_round(cursor, round_)
            for text, data in prepared.copies:
                with cursor.copy(text) as copy:
                    copy.write(data)

    def _versions(self, connection: Connection, batch: Batch) -> Versions:
        return Versions(
            vms=_known(connection, statements.VM_KNOWN, [item.subject_id for item in batch.vms]),
            hosts=_known(connection, statements.HOST_KNOWN, [item.subject_id for item in batch.hosts]),
        )

    def _ensure_days(self, connection: Connection, days: frozenset[date]) -> None:
        for day in sorted(days - self._days):
            if day not in self._days:
                last = day + timedelta(days=DAYS_AHEAD)
                connection.execute(statements.ENSURE_PARTITIONS, (day, last))
                self._days.update(day + timedelta(days=ahead) for ahead in range(DAYS_AHEAD + 1))

    def _fail(self, error: psycopg.Error) -> NoReturn:
        """Turn a database error into one of ours. The connection is given up: the next try makes a new one."""
        verdict = verdict_of(error)
        self.close()
        text = describe(error)
        if verdict is Verdict.PARTITION:
            self._days.clear()
            raise TransientError(f"a day partition is missing ({text})", where=self._place) from error
        if verdict is Verdict.AGAIN:
            raise TransientError(f"the database could not do it now ({text})", where=self._place) from error
        if verdict is Verdict.SCHEMA:
            raise DatabaseRefused(
                f"the schema or a permission is not as this program needs it ({text})",
                where=self._place,
                advice="run `deltavisor db migrate`, then `deltavisor db check`",
            ) from error
        if verdict is Verdict.DATA:
            raise TooManyBad(
                f"the database refuses a value ({text}{_line_of(error)})",
                where=self._place,
                advice="nothing of the batch was written; mend the writer of the record",
            ) from error
        raise FatalError(
            f"the database refuses what was sent ({text})", where=self._place, advice="this is a mistake in the sink"
        ) from error


def _with_images_of(missing: Missing, images: Images, source: ImageSource) -> Images:
    """The images and those of what is missing: subjects of one kind, since each kind is folded by itself."""
    wanted: dict[int, set[str]] = {}
    for subject_id, item in missing.arrived.items():
        wanted.setdefault(item.partition, set()).add(subject_id)
    of_vms = isinstance(next(iter(missing.arrived.values())).change, VmChange)
    read = source.vms if of_vms else source.hosts
    found: dict[str, Incoming] = {}
    for partition, subjects in wanted.items():
        found.update(read(partition, subjects))
    _log.error("changes_missing", subjects=len(missing.arrived), states_found=len(found), error=str(missing))
    return Images(vms=found, hosts=images.hosts) if of_vms else Images(vms=images.vms, hosts=found)


def _run(cursor: psycopg.Cursor[tuple[object, ...]], step: Step) -> int:
    cursor.execute(step.sql, step.arrays, prepare=True)
    return cursor.rowcount


def _write_round(cursor: psycopg.Cursor[tuple[object, ...]], round_: Round) -> None:
    for step in round_.before:
        _run(cursor, step)
    rows = _run(cursor, round_.heads)
    may_be_reborn = True
    if round_.reports_reborn:
        counted = cursor.fetchone()
        rows, reborn = cast(tuple[int, int], counted)
        may_be_reborn = reborn > 0
    if rows != round_.rows:
        raise _NotNewError
    for step in round_.after:
        if may_be_reborn or not step.when_reborn:
            _run(cursor, step)


def _known(connection: Connection, text: str, ids: list[str]) -> dict[str, Known]:
    if not ids:
        return {}
    keys: Array = uuids(sorted(set(ids)))
    rows = connection.execute(text, [keys], prepare=True).fetchall()
    return {key: Known(incarnation, version, _unsigned(digest)) for key, incarnation, version, digest in rows}


def _unsigned(number: int) -> int:
    return number + (1 << 64) if number < 0 else number


def _line_of(error: psycopg.Error) -> str:
    """`, line 5` of a COPY: the record's place in the batch; the rest of the context may quote values."""
    context = error.diag.context or ""
    _, found, rest = context.partition(", line ")
    number = rest.split(",")[0].split(":")[0].strip()
    return f", row {number} of the batch's history" if found and number.isdecimal() else ""
