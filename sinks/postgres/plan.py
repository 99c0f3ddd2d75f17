"""A batch as the statements that write it, packed and ready: everything that can be done before the transaction.

Preparing batch k+1 while batch k is being written is what makes one process fast, so nothing here touches the
database, and a plan can be executed again after a rollback.
"""

from collections.abc import Mapping, Sequence
from datetime import date

import msgspec

from schemas.vm_change import VmChange
from sinks.postgres import statements
from sinks.postgres.binary import Array, array_of, json_field, numbers, times, uuids
from sinks.postgres.coalesce import Coalesced, Known, Stretch, coalesce
from sinks.postgres.columns import (
    HOST_CHANGE_COLUMNS,
    HOST_FACET_TABLES,
    VM_CHANGE_COLUMNS,
    VM_FACET_TABLES,
    FacetTable,
    Kind,
)
from sinks.postgres.heads import host_head_arrays, struct_arrays, vm_head_arrays, word_field
from sinks.postgres.history import days_of, host_history, vm_history
from sinks.postgres.incoming import Incoming


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch takes from one partition: offsets from `expected` up to, not including, `next_offset`."""

    topic: str
    partition: int
    epoch: int
    expected: int
    next_offset: int


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Decoded changes with the spans of the log they come from; each list in order of arrival."""

    spans: tuple[Span, ...]
    vms: tuple[Incoming, ...] = ()
    hosts: tuple[Incoming, ...] = ()

    @property
    def rows(self) -> int:
        """Number of changes."""
        return len(self.vms) + len(self.hosts)


class Step(msgspec.Struct, frozen=True):
    """One statement with its arrays. `when_reborn`: only needed if a row of an earlier incarnation was replaced."""

    sql: str
    arrays: list[Array]
    when_reborn: bool = False


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """Heads of distinct subjects, then their facets. `rows` heads have to be written, or the batch is not new."""

    rows: int
    before: list[Step]
    heads: Step
    after: list[Step]
    reports_reborn: bool


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All of a transaction, in order: fence, rounds, history."""

    fence: Step
    partitions: int
    rounds: list[Round]
    copies: list[tuple[str, bytes]]
    days: frozenset[date]
    changes: int
    repeats: int
    stale: int
    repaired: int


class Images(msgspec.Struct, frozen=True, kw_only=True):
    """Whole states by subject, as changes that name everything; where changes are missing they take their place."""

    vms: Mapping[str, Incoming] = {}
    hosts: Mapping[str, Incoming] = {}


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """Where the rows of a batch stand, read by the slow path."""

    vms: Mapping[str, Known]
    hosts: Mapping[str, Known]


_VM_COPY = statements.copy_into("vm_change", VM_CHANGE_COLUMNS)
_HOST_COPY = statements.copy_into("host_change", HOST_CHANGE_COLUMNS)


def plan(batch: Batch, *, server_version: int, known: Versions | None = None, images: Images | None = None) -> Plan:
    """Plan a batch; with `known`, without the changes that the rows already hold; with `images`, across holes.

    Raises Missing for a hole in a subject's versions, and ValueError, OverflowError or struct.error for a value that
    its column can not hold.
    """
    images = images or Images()
    vms = coalesce(batch.vms, None if known is None else known.vms, images.vms)
    hosts = coalesce(batch.hosts, None if known is None else known.hosts, images.hosts)
    copies = []
    if vms.history:
        copies.append((_VM_COPY, vm_history(vms.history)))
    if hosts.history:
        copies.append((_HOST_COPY, host_history(hosts.history)))
    return Plan(
        fence=_fence(batch.spans),
        partitions=len(batch.spans),
        rounds=[*_vm_rounds(vms, server_version), *_host_rounds(hosts)],
        copies=copies,
        days=days_of(vms.history) | days_of(hosts.history),
        changes=len(vms.history) + len(hosts.history),
        repeats=vms.repeats + hosts.repeats,
        stale=vms.stale + hosts.stale,
        repaired=vms.repaired + hosts.repaired,
    )


def _fence(spans: Sequence[Span]) -> Step:
    return Step(
        statements.FENCE,
        [
            array_of(Kind.TEXT, [word_field(span.topic) for span in spans]),
            numbers(Kind.INT4, [span.partition for span in spans]),
            numbers(Kind.INT8, [span.epoch for span in spans]),
            numbers(Kind.INT8, [span.expected for span in spans]),
            numbers(Kind.INT8, [span.next_offset for span in spans]),
        ],
    )


def _vm_rounds(batch: Coalesced, server_version: int) -> list[Round]:
    counted = server_version >= statements.COUNT_IN_ONE_STATEMENT_SINCE
    rounds = []
    for stretches in batch.rounds:
        after = [*_facet_steps(VM_FACET_TABLES, stretches), *_managed_steps(stretches)]
        rounds.append(
            Round(
                rows=len(stretches),
                before=[] if counted else [_count_leaving(stretches)],
                heads=Step(statements.VM_HEADS_COUNTED if counted else statements.VM_HEADS, vm_head_arrays(stretches)),
                after=after if counted else [*after, _count_arriving(stretches)],
                reports_reborn=counted,
            )
        )
    return rounds


def _host_rounds(batch: Coalesced) -> list[Round]:
    return [
        Round(
            rows=len(stretches),
            before=[],
            heads=Step(statements.HOST_HEADS, host_head_arrays(stretches)),
            after=_facet_steps(HOST_FACET_TABLES, stretches),
            reports_reborn=False,
        )
        for stretches in batch.rounds
    ]


def _facet_steps(tables: Mapping[str, FacetTable], stretches: Sequence[Stretch]) -> list[Step]:
    """Per facet: rows that go, rows that only go if an earlier incarnation had them, rows that come."""
    written: dict[str, list[Stretch]] = {facet: [] for facet in tables}
    gone: dict[str, list[Stretch]] = {facet: [] for facet in tables}
    left: dict[str, list[Stretch]] = {facet: [] for facet in tables}
    for stretch in stretches:
        for facet, value in stretch.facets.items():
            if facet in tables:
                (gone if value.after is None else written)[facet].append(stretch)
        if stretch.removed or stretch.begins or stretch.repaired:
            over = gone if stretch.removed or stretch.repaired else left
            for facet in tables.keys() - stretch.facets.keys():
                over[facet].append(stretch)
    steps = []
    for facet, table in tables.items():
        if gone[facet]:
            steps.append(Step(statements.FACET_DELETES[facet], [_keys(gone[facet])]))
        if left[facet]:
            steps.append(Step(statements.FACET_DELETES[facet], [_keys(left[facet])], when_reborn=True))
        if written[facet]:
            steps.append(Step(statements.FACET_UPSERTS[facet], _facet_arrays(table, facet, written[facet])))
    return steps


def _facet_arrays(table: FacetTable, facet: str, stretches: Sequence[Stretch]) -> list[Array]:
    values = [stretch.facets[facet] for stretch in stretches]
    return [
        _keys(stretches),
        times([value.changed_at for value in values]),
        *struct_arrays(table.fields, [value.after for value in values]),
    ]


def _managed_steps(stretches: Sequence[Stretch]) -> list[Step]:
    managed = [stretch for stretch in stretches if stretch.managed]
    if not managed:
        return []
    fields = [json_field(msgspec.json.encode(stretch.managed)) for stretch in managed]
    changed_at = times([stretch.managed_at for stretch in managed])
    return [Step(statements.MANAGED_UPSERT, [_keys(managed), changed_at, array_of(Kind.JSON, fields)])]


def _keys(stretches: Sequence[Stretch]) -> Array:
    return uuids([stretch.subject_id for stretch in stretches])


def _parts(stretches: Sequence[Stretch]) -> Array:
    return numbers(Kind.INT4, [stretch.partition for stretch in stretches])


def _count_leaving(stretches: Sequence[Stretch]) -> Step:
    return Step(statements.COUNT_LEAVING, [_keys(stretches), _parts(stretches)])


def _count_arriving(stretches: Sequence[Stretch]) -> Step:
    changes = [stretch.last for stretch in stretches]
    vms = [change for change in changes if isinstance(change, VmChange)]
    return Step(
        statements.COUNT_ARRIVING,
        [
            _parts(stretches),
            array_of(Kind.TEXT, [word_field(change.status) for change in vms]),
            array_of(Kind.TEXT, [word_field(change.availability.state) for change in vms]),
        ],
    )
