"""The SQL of the sink, built from the columns that the schemas declare. Pure: text in, text out.

All parameters are whole binary arrays (`%b`), one per column of the source `s`. Identifiers come from `columns`
alone, never from a message. A source never names a subject twice; PostgreSQL would refuse it (21000).
"""

from collections.abc import Sequence

from sinks.postgres.columns import (
    HOST_COLUMNS,
    HOST_FACET_TABLES,
    MANAGED_COLUMNS,
    RUN_COLUMNS,
    VM_COLUMNS,
    VM_FACET_TABLES,
    Column,
    FacetTable,
    Kind,
)

COUNT_IN_ONE_STATEMENT_SINCE = 180_000
"""MERGE can return the old row since PostgreSQL 18; before, the counters cost two statements more."""

OLDEST_SERVER = 150_000
"""MERGE came with PostgreSQL 15."""

_GUARDS = (
    Column("first_version", Kind.INT8),
    Column("previous_digest", Kind.INT8),
)
VM_SOURCE = (*VM_COLUMNS, *_GUARDS, Column("part", Kind.INT4), Column("run_set", Kind.BOOL))
"""Arrays of the head statement for VMs, in order."""
HOST_SOURCE = (*HOST_COLUMNS, *_GUARDS)
"""Arrays of the head statement for hosts, in order."""

FENCE = """
UPDATE sink_position p SET next_offset = s.next_offset
FROM unnest(%b, %b, %b, %b, %b) AS s (topic, part, epoch, expected, next_offset)
WHERE p.topic = s.topic AND p.part = s.part AND p.epoch = s.epoch AND p.next_offset = s.expected
"""
"""First statement of every transaction. Fewer rows than partitions: another process owns one of them by now."""

TAKE_POSITION = """
INSERT INTO sink_position AS p (topic, part, epoch, next_offset, topic_id) VALUES (%s, %s, 1, %s, %s)
ON CONFLICT (topic, part) DO UPDATE SET epoch = p.epoch + 1
RETURNING epoch, next_offset, topic_id::text
"""
"""Take a partition over: from here on every other process is fenced off."""

READ_POSITIONS = "SELECT topic, part, epoch, next_offset FROM sink_position WHERE topic = ANY (%s)"
"""After a commit of unknown outcome."""

ENSURE_PARTITIONS = "SELECT ensure_partitions(%s, %s)"


def _source(columns: Sequence[Column]) -> str:
    names = ", ".join(column.name for column in columns)
    return f"unnest({', '.join(['%b'] * len(columns))}) AS s ({names})"


def _value(column: Column) -> str:
    return f"s.{column.name}::text[]" if column.kind is Kind.WORDS else f"s.{column.name}"


def _names(columns: Sequence[Column]) -> str:
    return ", ".join(column.name for column in columns)


def _merge(table: str, columns: Sequence[Column], source: Sequence[Column]) -> str:
    """Guarded write of heads: the row is just before the stretch, or the stretch begins a newer incarnation."""
    key = columns[0].name
    run = {column.name for column in RUN_COLUMNS}
    assigned = ", ".join(
        f"{column.name} = CASE WHEN s.run_set THEN {_value(column)} ELSE t.{column.name} END"
        if column.name in run
        else f"{column.name} = {_value(column)}"
        for column in columns[1:]
    )
    return f"""
MERGE INTO {table} t USING {_source(source)} ON t.{key} = s.{key}
WHEN MATCHED AND (
    t.incarnation = s.incarnation AND t.version = s.first_version - 1 AND t.digest = s.previous_digest
    OR t.incarnation < s.incarnation AND s.first_version = 1)
    THEN UPDATE SET {assigned}
WHEN NOT MATCHED AND s.first_version = 1
    THEN INSERT ({_names(columns)}) VALUES ({", ".join(map(_value, columns))})"""  # noqa: S608


HOST_HEADS = _merge("host", HOST_COLUMNS, HOST_SOURCE)
VM_HEADS = _merge("vm", VM_COLUMNS, VM_SOURCE)
"""Row count = heads written. For servers without RETURNING of the old row; see `VM_HEADS_COUNTED`."""

VM_HEADS_COUNTED = f"""
WITH merged AS ({VM_HEADS}
    RETURNING s.part, old.status AS old_status, old.availability AS old_availability,
        old.incarnation < new.incarnation AS reborn, new.status, new.availability
), moved AS (
    SELECT part, status, availability, sum(n) AS n FROM (
        SELECT part, status, availability, 1 AS n FROM merged
        UNION ALL
        SELECT part, old_status, old_availability, -1 FROM merged WHERE old_status IS NOT NULL) AS each
    GROUP BY part, status, availability HAVING sum(n) <> 0
), counted AS (
    INSERT INTO fleet_count AS c (part, status, availability, n) SELECT part, status, availability, n FROM moved
    ON CONFLICT (part, status, availability) DO UPDATE SET n = c.n + excluded.n
)
SELECT count(*), count(*) FILTER (WHERE reborn) FROM merged
"""  # noqa: S608
"""Heads and fleet counters at once; returns (heads written, of them with an earlier incarnation)."""

COUNT_LEAVING = f"""
INSERT INTO fleet_count AS c (part, status, availability, n)
SELECT s.part, v.status, v.availability, -count(*)
FROM {_source((Column("vm_id", Kind.UUID), Column("part", Kind.INT4)))} JOIN vm v ON v.vm_id = s.vm_id
GROUP BY s.part, v.status, v.availability
ON CONFLICT (part, status, availability) DO UPDATE SET n = c.n + excluded.n
"""  # noqa: S608
"""Before `VM_HEADS`: take the rows about to change out of the counters."""

COUNT_ARRIVING = f"""
INSERT INTO fleet_count AS c (part, status, availability, n)
SELECT s.part, s.status, s.availability, count(*)
FROM {_source((Column("part", Kind.INT4), Column("status", Kind.TEXT), Column("availability", Kind.TEXT)))}
GROUP BY s.part, s.status, s.availability
ON CONFLICT (part, status, availability) DO UPDATE SET n = c.n + excluded.n
"""  # noqa: S608
"""After `VM_HEADS`: count them as they are now."""


def _upsert(table: FacetTable) -> str:
    columns = table.columns
    assigned = ", ".join(f"{column.name} = excluded.{column.name}" for column in columns[1:])
    return f"""
INSERT INTO {table.name} ({_names(columns)}) SELECT {", ".join(map(_value, columns))} FROM {_source(columns)}
ON CONFLICT ({table.key.name}) DO UPDATE SET {assigned}"""  # noqa: S608


def _delete(table: FacetTable) -> str:
    key = table.key.name
    return f"DELETE FROM {table.name} f USING {_source((table.key,))} WHERE f.{key} = s.{key}"  # noqa: S608


_FACET_TABLES = (*VM_FACET_TABLES.values(), *HOST_FACET_TABLES.values())

FACET_UPSERTS = {table.facet: _upsert(table) for table in _FACET_TABLES}
"""By facet: write its rows; arrays are the table's columns."""
FACET_DELETES = {table.facet: _delete(table) for table in _FACET_TABLES}
"""By facet: drop the rows of these keys."""

MANAGED_UPSERT = f"""
INSERT INTO vm_managed AS m ({_names(MANAGED_COLUMNS)})
SELECT {", ".join(map(_value, MANAGED_COLUMNS))} FROM {_source(MANAGED_COLUMNS)}
ON CONFLICT (vm_id) DO UPDATE SET changed_at = excluded.changed_at, fields = m.fields || excluded.fields
"""  # noqa: S608


def known_versions(table: str, key: str) -> str:
    """Slow path: where the rows of these keys stand."""
    return (
        f"SELECT t.{key}::text, t.incarnation, t.version, t.digest "  # noqa: S608
        f"FROM {_source((Column(key, Kind.UUID),))} JOIN {table} t ON t.{key} = s.{key}"
    )


VM_KNOWN = known_versions("vm", "vm_id")
HOST_KNOWN = known_versions("host", "host_id")


def copy_into(table: str, columns: Sequence[Column]) -> str:
    """COPY of rows packed in this order of columns."""
    return f"COPY {table} ({_names(columns)}) FROM STDIN (FORMAT binary)"
