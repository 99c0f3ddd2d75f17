"""What the database says about what it was made to do: rows written, rows held, delay from event to row."""

from __future__ import annotations

import msgspec
import psycopg

from infra.agreement.compare import CurrentRow, HistoryRow
from infra.cli.connect import Reader

STATISTICS_SETTLE_SECONDS = 11.0
"""A backend that falls idle tells its counts after ten seconds at the latest; before that, a difference of two
readings would count writes of the time before."""

_U64 = 1 << 64
_ROWS_WRITTEN = "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::int8 AS n FROM pg_stat_user_tables"
_DELAY = """
SELECT count(*) AS n,
       percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY delay_ms) AS delays
FROM (
    SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin) - observed_at)::float8 * 1000 AS delay_ms
    FROM vm_change
    WHERE observed_at >= to_timestamp(%(since)s) AND observed_at < to_timestamp(%(until)s) AND cause = ANY(%(causes)s)
) AS delays
"""
_BY_EVIDENCE = ["created", "reported", "adopted", "handed_over", "restarted", "gone"]
"""Causes whose moment is an event on a host; a timer's or a silent host's change is due when ticks say so."""


class Delay(msgspec.Struct, frozen=True, kw_only=True):
    """From the event on the host to the commit of its row, over `changes` changes; None where there were none."""

    changes: int
    p50_ms: float | None
    p99_ms: float | None


def rows_written(reader: Reader) -> int:
    """Rows inserted, updated and deleted in all tables so far, as PostgreSQL counts them."""
    row = reader.execute(_ROWS_WRITTEN).fetchone()
    return int(row["n"]) if row else 0


def event_to_row(reader: Reader, since_seconds: float, until_seconds: float) -> Delay:
    """Delay of the changes observed in [since, until) (Unix seconds); commit times are PostgreSQL's own."""
    given = {"since": since_seconds, "until": until_seconds, "causes": _BY_EVIDENCE}
    row = reader.execute(_DELAY, given).fetchone()
    if row is None or not row["n"]:
        return Delay(changes=0, p50_ms=None, p99_ms=None)
    p50, p99 = row["delays"]
    return Delay(changes=row["n"], p50_ms=round(p50, 1), p99_ms=round(p99, 1))


def current_rows(reader: Reader) -> dict[str, CurrentRow]:
    """Table `vm`, by id."""
    rows = reader.execute(
        "SELECT vm_id::text, incarnation, version, digest, status, availability, host_id::text FROM vm"
    )
    return {
        row["vm_id"]: CurrentRow(
            incarnation=row["incarnation"],
            version=row["version"],
            digest=row["digest"] % _U64,
            status=row["status"],
            availability=row["availability"],
            host_id=row["host_id"],
        )
        for row in rows
    }


def history_rows(reader: Reader) -> list[HistoryRow]:
    """Identities of table `vm_change`."""
    rows = reader.execute("SELECT vm_id::text, incarnation, version, state_digest FROM vm_change")
    return [
        HistoryRow(
            vm_id=row["vm_id"],
            incarnation=row["incarnation"],
            version=row["version"],
            digest=row["state_digest"] % _U64,
        )
        for row in rows
    ]


def count(reader: Reader, table: str) -> int:
    """Rows of a table of ours."""
    statement = psycopg.sql.SQL("SELECT count(*) AS n FROM {}").format(psycopg.sql.Identifier(table))
    row = reader.execute(statement).fetchone()
    return int(row["n"]) if row else 0
