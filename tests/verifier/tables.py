"""PostgreSQL against the fold of the changes (I1, I3, I4, I6).

- `sink_position` is the end of each partition of vm.changes and host.changes when quiet, and never behind the end;
- history (`vm_change`, `host_change`) is exactly the set of distinct changes whose first record lies below the
  position: one row each, every column equal. A row at or above the position, or a change below it without row, means
  that position and data were not of one transaction (I4);
- current rows (`vm`, `host`, facet tables, `vm_managed`) are the state after the last change, column by column;
  `changed_at` of a facet is when it last changed; nothing is left of facets that a VM no longer has;
- `fleet_count` is the number of rows of `vm` by partition, status and availability.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from tests.verifier.changes import HOST_HISTORY, VM_HISTORY, row_hash, signed
from tests.verifier.database import RowMap, Tables
from tests.verifier.facets import FIELDS, HOST_FACETS, NOTED, VM_FACETS, marks_of
from tests.verifier.findings import Finding, Kind, Report
from tests.verifier.history import Folded, History, Key
from tests.verifier.logs import HOST_CHANGES, VM_CHANGES, Span


class Subject(NamedTuple):
    """How VMs and hosts are stored."""

    name: str
    topic: str
    key: str
    table: str
    history: str
    columns: tuple[str, ...]
    facets: tuple[str, ...]
    """Those with a table of their own."""
    prefix: str
    """Of facet tables."""


VMS = Subject(
    "vm", VM_CHANGES, "vm_id", "vm", "vm_change", VM_HISTORY, tuple(f for f in VM_FACETS if f != "run"), "vm_"
)
HOSTS = Subject("host", HOST_CHANGES, "host_id", "host", "host_change", HOST_HISTORY, HOST_FACETS, "")

REPAIRED = "repaired"
"""Cause of a row that was made from vm.state, since the changes themselves were gone."""

Positions = dict[int, int]
"""Partition -> next offset."""


class TableCheck:
    """Compares the tables of one kind of subject with the fold of its changes."""

    def __init__(self, report: Report, tables: Tables, subject: Subject, history: History) -> None:
        self._report, self._tables, self._subject, self._history = report, tables, subject, history
        self._positions: Positions = {}

    def compare(self, prefix: str, spans: Mapping[int, Span], *, quiet: bool) -> None:
        """Compare everything; `spans` are those that were read of the topic."""
        self._compare_positions(prefix, spans, quiet=quiet)
        self._compare_history()
        current = {row[self._subject.key]: row for row in self._tables.rows(self._subject.table)}
        self._compare_current(current)
        for facet in self._subject.facets:
            self._compare_facet(facet)
        if self._subject is VMS:
            self._compare_managed()
            self._compare_counts(current)

    def _compare_positions(self, prefix: str, spans: Mapping[int, Span], *, quiet: bool) -> None:
        topic = prefix + self._subject.topic
        stored = {
            row["part"]: row["next_offset"] for row in self._tables.rows("sink_position") if row["topic"] == topic
        }
        for partition, span in spans.items():
            found = stored.get(partition)
            self._positions[partition] = found or 0
            self._report.looked_at["positions compared"] += 1
            if found is None and span.high > 0:
                self._found(Kind.POSITION, "I4", "no row in sink_position", partition=partition, offset=span.high)
            elif found is not None and (found > span.high or (quiet and found != span.high)):
                what = f"sink_position is {found}, the topic ends at {span.high}"
                self._found(Kind.POSITION, "I4", what, partition=partition, offset=found)

    def _compare_history(self) -> None:
        subject, distinct = self._subject, self._history.distinct
        seen: set[Key] = set()
        repaired: dict[str, tuple[int, int]] = {}
        for row in self._tables.rows(subject.history):
            self._report.looked_at[f"rows of {subject.history}"] += 1
            key = (row[subject.key], row["incarnation"], row["version"])
            known = distinct.get(key)
            if known is None:
                self._found(Kind.FOREIGN, "I1 I3", f"in {subject.history}, never published", key)
            elif key in seen:
                self._found(Kind.DUPLICATED, "I3", f"in {subject.history} twice", key)
            elif row["cause"] == REPAIRED:
                self._take_repaired(key, row, repaired)
            elif row_hash([row[name] for name in subject.columns]) != known.row:
                self._found(Kind.DIFFERING, "I1", f"its row in {subject.history} is not what was published", key)
            elif known.offset >= self._positions[known.partition]:
                what = f"in {subject.history}, the position says that only {self._positions[known.partition]} was read"
                self._found(Kind.POSITION, "I4", what, key, known.partition, known.offset)
            seen.add(key)
        for key, known in distinct.items():
            if key[1:] < repaired.get(key[0], (0, 0)):
                continue
            if key not in seen and known.offset < self._positions[known.partition]:
                what = f"published and read, not in {subject.history}"
                self._found(Kind.LOST, "I1 I4", what, key, known.partition, known.offset)

    def _take_repaired(self, key: Key, row: RowMap, repaired: dict[str, tuple[int, int]]) -> None:
        """A row that says that changes before it were gone: its state is what counts, and what it covers may lack."""
        self._report.looked_at["repaired rows"] += 1
        self._report.note("the sink repaired rows from the state topics: their histories have gaps, and say so")
        repaired[key[0]] = max(key[1:], repaired.get(key[0], (0, 0)))
        if row["state_digest"] != signed(self._history.distinct[key].digest):
            self._found(Kind.DIFFERING, "I1", f"its repaired row in {self._subject.history} has another digest", key)

    def _settled(self, folded: Folded) -> bool:
        """Its last change is one that the sink has read."""
        return folded.offset < self._positions[folded.partition]

    def _compare_current(self, current: Mapping[str, RowMap]) -> None:
        table, expected = self._subject.table, self._history.subjects
        for one in current.keys() - expected.keys():
            self._found(Kind.FOREIGN, "I1", f"in table {table}, never published", (one, None, None))
        for one, folded in expected.items():
            if not self._settled(folded):
                continue
            row = current.get(one)
            self._report.looked_at[f"rows of {table}"] += 1
            if row is None:
                self._found(Kind.LOST, "I1", f"not in table {table}", (one, None, None))
                continue
            last = folded.last
            order = (row["incarnation"], row["version"])
            if order != (last.incarnation, last.version):
                kind = Kind.STALE if order < (last.incarnation, last.version) else Kind.FOREIGN
                what = (
                    f"table {table} holds {order[0]}:{order[1]}, {last.incarnation}:{last.version} was published last"
                )
                self._found(kind, "I1 I6", what, (one, *order))
                continue
            wanted = _head_of_vm(folded) if self._subject is VMS else _head_of_host(folded)
            differs = sorted(name for name, value in wanted.items() if row[name] != value)
            if self._subject is VMS and not _run_is(row, folded):
                differs.append("run_*")
            if differs:
                what = f"table {table} differs in {', '.join(differs)}"
                self._found(Kind.DIFFERING, "I1", what, (one, *order))

    def _compare_facet(self, facet: str) -> None:
        table, seen = self._subject.prefix + facet, set[str]()
        for row in self._tables.rows(table):
            one = row[self._subject.key]
            seen.add(one)
            folded = self._history.subjects.get(one)
            if folded is None or not self._settled(folded):
                continue
            shown = folded.facets.get(facet)
            self._report.looked_at["rows of facet tables"] += 1
            if shown is None:
                self._found(
                    Kind.NOT_DELETED, "I1", f"row in {table} of a facet that it does not have", (one, None, None)
                )
            elif marks_of(facet, _value_of(facet, row)).exact != shown.marks.exact:
                self._found(Kind.DIFFERING, "I1", f"{table} is not the facet published last", (one, None, None))
            elif row["changed_at"] != shown.changed_at // 1000:
                self._found(Kind.DIFFERING, "I1", f"changed_at in {table}", (one, None, None))
        for one, folded in self._history.subjects.items():
            if facet in folded.facets and one not in seen and self._settled(folded):
                self._found(Kind.LOST, "I1", f"no row in {table}", (one, None, None))

    def _compare_managed(self) -> None:
        stored = {row["vm_id"]: row["fields"] for row in self._tables.rows("vm_managed")}
        for one, folded in self._history.subjects.items():
            if self._settled(folded) and stored.pop(one, {}) != folded.managed:
                self._found(Kind.DIFFERING, "I1", "vm_managed", (one, None, None))

    def _compare_counts(self, current: Mapping[str, RowMap]) -> None:
        stored = {
            (row["part"], row["status"], row["availability"]): row["n"]
            for row in self._tables.rows("fleet_count")
            if row["n"]
        }
        counted: Counter[tuple[int, str, str]] = Counter()
        for one, row in current.items():
            folded = self._history.subjects.get(one)
            if folded is not None:
                counted[folded.partition, row["status"], row["availability"]] += 1
        for key in sorted(stored.keys() | counted.keys()):
            if stored.get(key, 0) != counted[key]:
                what = f"fleet_count of {key} is {stored.get(key, 0)}, {counted[key]} rows are there"
                self._report.add(Finding(kind=Kind.DIFFERING, invariant="I3 I4", what=what, partition=key[0]))

    def _found(
        self,
        kind: Kind,
        invariant: str,
        what: str,
        key: tuple[str, int | None, int | None] | None = None,
        partition: int | None = None,
        offset: int | None = None,
    ) -> None:
        one, incarnation, version = key or (None, None, None)
        self._report.add(
            Finding(
                kind=kind,
                invariant=invariant,
                what=what,
                topic=self._subject.topic,
                partition=partition,
                offset=offset,
                vm=one if self._subject is VMS else None,
                host=one if self._subject is HOSTS else None,
                incarnation=incarnation,
                version=version,
            )
        )


def _head_of_vm(folded: Folded) -> RowMap:
    last = folded.last
    status, reasons, host, epoch, run, end = last.look
    exit_status, exit_reason, message = end or (None, None, None)
    return {
        "digest": signed(last.digest),
        "status": status,
        "availability": last.belief[0],
        "availability_reason": last.belief[1],
        "availability_reasons": list(reasons),
        "availability_since": last.belief[3] // 1000,
        "host_id": host,
        "ownership_epoch": epoch,
        "run_id": run,
        "exit_status": exit_status,
        "exit_reason": exit_reason,
        "exit_message": None if message is None else message.replace("\0", ""),
        "cause": last.cause,
        "observed_at": last.observed_at // 1000,
        "detected_at": last.detected_at // 1000,
    }


def _head_of_host(folded: Folded) -> RowMap:
    last = folded.last
    state, confirmed, flags, machine, boot, epoch = last.look
    return {
        "digest": signed(last.digest),
        "reachability": state,
        "reachability_reason": last.belief[1],
        "reachability_since": last.belief[3] // 1000,
        "confirmed": confirmed,
        "flags": list(flags),
        "machine_id": machine,
        "boot_id": boot,
        "agent_epoch": epoch,
        "cause": last.cause,
        "observed_at": last.observed_at // 1000,
        "detected_at": last.detected_at // 1000,
    }


def _value_of(facet: str, row: Mapping[str, Any], prefix: str = "") -> RowMap:
    """The facet in a row; noted times in ns again, as `marks_of` takes them."""
    noted = NOTED.get(facet, ())
    return {
        name: row[prefix + name] * 1000 if name in noted and row[prefix + name] is not None else row[prefix + name]
        for name in FIELDS[facet]
    }


def _run_is(row: Mapping[str, Any], folded: Folded) -> bool:
    shown = folded.facets.get("run")
    stored = _value_of("run", row, "run_")
    if shown is None:
        return all(value is None for value in stored.values())
    return marks_of("run", stored).exact == shown.marks.exact
