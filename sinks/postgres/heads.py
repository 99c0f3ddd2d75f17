"""Head rows of a batch as binary arrays: one array per column of `VM_SOURCE` and `HOST_SOURCE`. Pure."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

import msgspec

from schemas.facets import Facet
from schemas.facets.run import Run
from schemas.host_change import HostChange
from schemas.vm_change import VmChange
from sinks.postgres.binary import (
    NULL,
    Array,
    array_of,
    bool_field,
    int8_field,
    json_field,
    numbers,
    signed,
    text_field,
    time_field,
    times,
    uuid_field,
    uuids,
    words_literal_field,
)
from sinks.postgres.coalesce import Stretch
from sinks.postgres.columns import RUN_COLUMNS, RUN_PREFIX, VM_FIELDS, Column, Kind

Encoder = Callable[[Any], bytes]


@lru_cache(maxsize=4096)
def word_field(word: str | None) -> bytes:
    """Field of a text out of a small set: statuses, causes, reasons, topics."""
    return text_field(word)


@lru_cache(maxsize=65_536)
def near_uuid_field(text: str | None) -> bytes:
    """Field of a uuid that many rows share: hosts, boots."""
    return uuid_field(text)


def _nested(value: Any) -> bytes:
    return NULL if value is None else json_field(msgspec.json.encode(value))


ENCODERS: dict[Kind, Encoder] = {
    Kind.UUID: uuid_field,
    Kind.TEXT: text_field,
    Kind.INT8: int8_field,
    Kind.BOOL: bool_field,
    Kind.TIME: time_field,
    Kind.JSON: _nested,
}
"""Field of a facet's value, by the kind of its column."""


def struct_arrays(columns: Sequence[Column], rows: Sequence[msgspec.Struct | None], prefix: str = "") -> list[Array]:
    """Arrays of facet fields; a row that is None is all NULL. Columns are named like fields, behind `prefix`."""
    arrays = []
    for column in columns:
        name = column.name.removeprefix(prefix)
        encode = ENCODERS[column.kind]
        arrays.append(
            array_of(column.kind, [NULL if row is None else encode(getattr(row, name)) for row in rows]),
        )
    return arrays


def vm_head_arrays(stretches: Sequence[Stretch]) -> list[Array]:
    """Arrays for the head statement of VMs, in the order of `VM_SOURCE`."""
    changes = [cast(VmChange, stretch.last) for stretch in stretches]
    beliefs = [change.availability for change in changes]
    exits = [change.exit for change in changes]
    values: dict[str, Array] = {
        "status": array_of(Kind.TEXT, [word_field(change.status) for change in changes]),
        "availability": array_of(Kind.TEXT, [word_field(belief.state) for belief in beliefs]),
        "availability_reason": array_of(Kind.TEXT, [word_field(belief.reason) for belief in beliefs]),
        "availability_reasons": array_of(Kind.WORDS, [words_literal_field(belief.reasons) for belief in beliefs]),
        "availability_since": times([belief.since for belief in beliefs]),
        "host_id": array_of(Kind.UUID, [near_uuid_field(change.host_id) for change in changes]),
        "ownership_epoch": numbers(Kind.INT8, [change.ownership_epoch for change in changes]),
        "run_id": array_of(Kind.UUID, [uuid_field(change.run_id) for change in changes]),
        "exit_status": array_of(Kind.TEXT, [NULL if end is None else word_field(end.status) for end in exits]),
        "exit_reason": array_of(Kind.TEXT, [NULL if end is None else word_field(end.reason) for end in exits]),
        "exit_message": array_of(Kind.TEXT, [NULL if end is None else text_field(end.message) for end in exits]),
    }
    state = [values[column.name] for columns in VM_FIELDS.values() for column in columns]
    runs, run_set = _runs(stretches)
    return [
        *_frame(stretches),
        *state,
        *_origin(changes),
        *struct_arrays(RUN_COLUMNS, runs, RUN_PREFIX),
        *_guards(stretches),
        numbers(Kind.INT4, [stretch.partition for stretch in stretches]),
        numbers(Kind.BOOL, run_set),
    ]


def host_head_arrays(stretches: Sequence[Stretch]) -> list[Array]:
    """Arrays for the head statement of hosts, in the order of `HOST_SOURCE`."""
    changes = [cast(HostChange, stretch.last) for stretch in stretches]
    found = [change.reachability for change in changes]
    return [
        *_frame(stretches),
        array_of(Kind.TEXT, [word_field(state.state) for state in found]),
        array_of(Kind.TEXT, [text_field(state.reason) for state in found]),
        times([state.since for state in found]),
        numbers(Kind.BOOL, [state.mass for state in found]),
        numbers(Kind.BOOL, [change.confirmed for change in changes]),
        array_of(Kind.WORDS, [words_literal_field(change.flags) for change in changes]),
        uuids([change.machine_id for change in changes]),
        uuids([change.boot_id for change in changes]),
        uuids([change.agent_epoch for change in changes]),
        *_origin(changes),
        *_guards(stretches),
    ]


def _runs(stretches: Sequence[Stretch]) -> tuple[list[Run | None], list[bool]]:
    """The run facet of each head, and whether it is to be written: changed, cleared, or what was there must go."""
    runs: list[Run | None] = []
    is_set = []
    for stretch in stretches:
        value = stretch.facets.get(Facet.RUN.value)
        runs.append(None if value is None else value.after)
        is_set.append(value is not None or stretch.removed or stretch.begins or stretch.repaired)
    return runs, is_set


def _frame(stretches: Sequence[Stretch]) -> list[Array]:
    changes = [stretch.last for stretch in stretches]
    return [
        uuids([stretch.subject_id for stretch in stretches]),
        numbers(Kind.INT8, [change.incarnation for change in changes]),
        numbers(Kind.INT8, [change.version for change in changes]),
        numbers(Kind.INT8, [signed(change.state_digest) for change in changes]),
    ]


def _origin(changes: Sequence[VmChange] | Sequence[HostChange]) -> list[Array]:
    return [
        array_of(Kind.TEXT, [word_field(change.cause) for change in changes]),
        times([change.observed_at for change in changes]),
        times([change.detected_at for change in changes]),
    ]


def _guards(stretches: Sequence[Stretch]) -> list[Array]:
    return [
        numbers(Kind.INT8, [stretch.follows[0] + 1 for stretch in stretches]),
        numbers(Kind.INT8, [signed(stretch.follows[1]) for stretch in stretches]),
    ]
