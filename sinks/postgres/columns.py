"""Which columns hold which fields: derived from the schemas' own declarations, so that the two cannot drift apart.

A facet becomes a table with one column per field that the schema marks with an owner; the `run` facet is part of the
head row, prefixed `run_`. A field of type text, int or bool has a column of that type, a time (int64 ns in a field
named `..._at`, `...since` or `..._as_of`) a timestamptz, anything nested a jsonb.
"""

from enum import StrEnum
from types import NoneType
from typing import get_args, get_type_hints

import msgspec

from schemas.facets import HOST_FACETS, VM_FACETS, Facet, HostFacet
from schemas.ownership import fields_of


class Kind(StrEnum):
    """PostgreSQL types in use, by the name that the catalog gives them."""

    UUID = "uuid"
    TEXT = "text"
    WORDS = "text[]"
    """A set of words. `unnest` would flatten an array of arrays, so it travels as text and is cast."""
    INT8 = "bigint"
    INT4 = "integer"
    INT2 = "smallint"
    BOOL = "boolean"
    TIME = "timestamp with time zone"
    JSON = "jsonb"


class Column(msgspec.Struct, frozen=True):
    """One column."""

    name: str
    kind: Kind


_TIME_ENDINGS = ("_at", "since", "_as_of")


def facet_columns(facet: type[msgspec.Struct], prefix: str = "") -> tuple[Column, ...]:
    """Columns of a facet's fields in declaration order, without the key."""
    hints = get_type_hints(facet)
    return tuple(Column(prefix + name, _kind_of(name, hints[name])) for name in fields_of(facet))


def _kind_of(name: str, hint: object) -> Kind:
    given = [part for part in get_args(hint) if part is not NoneType] if NoneType in get_args(hint) else [hint]
    (kind,) = given
    if not isinstance(kind, type):
        return Kind.JSON
    if issubclass(kind, bool):
        return Kind.BOOL
    if issubclass(kind, str):
        return Kind.TEXT
    if issubclass(kind, int):
        return Kind.TIME if name.endswith(_TIME_ENDINGS) else Kind.INT8
    return Kind.JSON


RUN_PREFIX = "run_"
RUN_COLUMNS = facet_columns(VM_FACETS[Facet.RUN], RUN_PREFIX)

_FRAME = (
    Column("incarnation", Kind.INT8),
    Column("version", Kind.INT8),
    Column("digest", Kind.INT8),
)
_ORIGIN = (
    Column("cause", Kind.TEXT),
    Column("observed_at", Kind.TIME),
    Column("detected_at", Kind.TIME),
)

VM_FIELDS: dict[str, tuple[Column, ...]] = {
    "status": (Column("status", Kind.TEXT),),
    "availability": (
        Column("availability", Kind.TEXT),
        Column("availability_reason", Kind.TEXT),
        Column("availability_reasons", Kind.WORDS),
        Column("availability_since", Kind.TIME),
    ),
    "host_id": (Column("host_id", Kind.UUID),),
    "ownership_epoch": (Column("ownership_epoch", Kind.INT8),),
    "run_id": (Column("run_id", Kind.UUID),),
    "exit": (
        Column("exit_status", Kind.TEXT),
        Column("exit_reason", Kind.TEXT),
        Column("exit_message", Kind.TEXT),
    ),
}
"""Columns of `vm` by the derived field of VmChange that fills them."""

VM_KEY = Column("vm_id", Kind.UUID)
VM_STATE_COLUMNS = tuple(column for columns in VM_FIELDS.values() for column in columns)
VM_COLUMNS = (VM_KEY, *_FRAME, *VM_STATE_COLUMNS, *_ORIGIN, *RUN_COLUMNS)

HOST_FIELDS: dict[str, tuple[Column, ...]] = {
    "reachability": (
        Column("reachability", Kind.TEXT),
        Column("reachability_reason", Kind.TEXT),
        Column("reachability_since", Kind.TIME),
        Column("reachability_mass", Kind.BOOL),
    ),
    "confirmed": (Column("confirmed", Kind.BOOL),),
    "flags": (Column("flags", Kind.WORDS),),
}
"""Columns of `host` by the derived field of HostChange that fills them."""

HOST_KEY = Column("host_id", Kind.UUID)
HOST_STATE_COLUMNS = tuple(column for columns in HOST_FIELDS.values() for column in columns)
HOST_AGENT_COLUMNS = (
    Column("machine_id", Kind.UUID),
    Column("boot_id", Kind.UUID),
    Column("agent_epoch", Kind.UUID),
)
HOST_COLUMNS = (HOST_KEY, *_FRAME, *HOST_STATE_COLUMNS, *HOST_AGENT_COLUMNS, *_ORIGIN)

CHANGED_AT = Column("changed_at", Kind.TIME)


class FacetTable(msgspec.Struct, frozen=True, kw_only=True):
    """Table of one facet: the subject's key, when it last changed, and the facet's fields."""

    name: str
    facet: str
    key: Column
    fields: tuple[Column, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns, the key first."""
        return (self.key, CHANGED_AT, *self.fields)


VM_FACET_TABLES: dict[str, FacetTable] = {
    facet.value: FacetTable(name=f"vm_{facet.value}", facet=facet.value, key=VM_KEY, fields=facet_columns(kind))
    for facet, kind in VM_FACETS.items()
    if facet is not Facet.RUN
}
HOST_FACET_TABLES: dict[str, FacetTable] = {
    facet.value: FacetTable(name=facet.value, facet=facet.value, key=HOST_KEY, fields=facet_columns(kind))
    for facet, kind in HOST_FACETS.items()
}
MANAGED_COLUMNS = (VM_KEY, CHANGED_AT, Column("fields", Kind.JSON))

_EVIDENCE_NUMBERS = (
    Column("previous_digest", Kind.INT8),
    Column("state_digest", Kind.INT8),
    Column("evidence_log", Kind.INT8),
    Column("evidence_offset", Kind.INT8),
    Column("evidence_partition", Kind.INT4),
    Column("rules_version", Kind.INT4),
    Column("facet_mask", Kind.INT2),
)
_EVIDENCE_ORIGIN = (
    Column("evidence_topic", Kind.TEXT),
    Column("evidence_host", Kind.UUID),
    Column("evidence_boot", Kind.UUID),
    Column("evidence_seq", Kind.INT8),
    Column("evidence_tick", Kind.INT8),
)

VM_CHANGE_COLUMNS = (
    VM_KEY,
    Column("incarnation", Kind.INT8),
    Column("version", Kind.INT8),
    Column("detected_at", Kind.TIME),
    Column("observed_at", Kind.TIME),
    Column("availability_since", Kind.TIME),
    Column("ownership_epoch", Kind.INT8),
    *_EVIDENCE_NUMBERS,
    Column("cause", Kind.TEXT),
    Column("status", Kind.TEXT),
    Column("availability", Kind.TEXT),
    Column("availability_reason", Kind.TEXT),
    Column("availability_reasons", Kind.WORDS),
    Column("host_id", Kind.UUID),
    Column("run_id", Kind.UUID),
    Column("exit_status", Kind.TEXT),
    Column("exit_reason", Kind.TEXT),
    Column("exit_message", Kind.TEXT),
    *_EVIDENCE_ORIGIN,
    Column("intent_id", Kind.TEXT),
    Column("facets", Kind.JSON),
    Column("managed", Kind.JSON),
)
"""Fixed-size columns come first: one `struct` packs them all."""

HOST_CHANGE_COLUMNS = (
    HOST_KEY,
    Column("incarnation", Kind.INT8),
    Column("version", Kind.INT8),
    Column("detected_at", Kind.TIME),
    Column("observed_at", Kind.TIME),
    Column("reachability_since", Kind.TIME),
    *_EVIDENCE_NUMBERS,
    Column("reachability_mass", Kind.BOOL),
    Column("confirmed", Kind.BOOL),
    *HOST_AGENT_COLUMNS,
    Column("cause", Kind.TEXT),
    Column("reachability", Kind.TEXT),
    Column("reachability_reason", Kind.TEXT),
    Column("flags", Kind.WORDS),
    *_EVIDENCE_ORIGIN,
    Column("facets", Kind.JSON),
)

FACET_BITS: dict[str, int] = {
    **{facet.value: 1 << bit for bit, facet in enumerate(Facet)},
    **{facet.value: 1 << bit for bit, facet in enumerate(HostFacet)},
}
"""Bit of each facet in `facet_mask`; a facet that this version does not know has none."""

POSITION_COLUMNS = (
    Column("topic", Kind.TEXT),
    Column("part", Kind.INT4),
    Column("epoch", Kind.INT8),
    Column("next_offset", Kind.INT8),
    Column("topic_id", Kind.UUID),
)
COUNT_COLUMNS = (
    Column("part", Kind.INT4),
    Column("status", Kind.TEXT),
    Column("availability", Kind.TEXT),
    Column("n", Kind.INT8),
)

TABLES: dict[str, tuple[Column, ...]] = {
    "vm": VM_COLUMNS,
    **{table.name: table.columns for table in VM_FACET_TABLES.values()},
    "vm_managed": MANAGED_COLUMNS,
    "vm_change": VM_CHANGE_COLUMNS,
    "host": HOST_COLUMNS,
    **{table.name: table.columns for table in HOST_FACET_TABLES.values()},
    "host_change": HOST_CHANGE_COLUMNS,
    "sink_position": POSITION_COLUMNS,
    "fleet_count": COUNT_COLUMNS,
}
"""Every table that the sink writes, with its columns and types."""
