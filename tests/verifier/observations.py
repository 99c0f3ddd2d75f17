"""vm.observations against the oracle of admission: everything accepted travels on, once, unchanged, in order (I1).

Per partition of vm.observations and per accepted report:

- every statement that must pass the gate is there (`lost`), with the facets that must pass (`differing`); more facets
  of the same report are accepted, since a stage that lost its table knows no better;
- nothing is there that no accepted report said (`foreign`);
- a statement that comes again is the same (a restart repeats), first appearances of one source are in log order;
- the inventory of a snapshot travels on whole;
- a host is called silent by a tick only.

What is heard for the first time is handed on, in the order in which the vms stage must have applied it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

from tests.verifier.admission import ABSENT, Admission, Meaning, statement_hash
from tests.verifier.findings import Finding, Kind, Report
from tests.verifier.logs import VM_OBSERVATIONS, Message, Span
from tests.verifier.records import U64, Unreadable, hash64, text_of, unpack
from tests.verifier.reports import Facets

SILENT, STOPPED, BACK, DEGRADED, RECOVERED, CONFIRMED, NEW_BOOT, CONFLICT, CONFLICT_ENDED = range(1, 10)
_SHOWN_EVENTS = frozenset({SILENT, STOPPED, BACK, DEGRADED, RECOVERED, CONFLICT, CONFLICT_ENDED})
"""Events that change what the public sees of a host."""


class Statement(NamedTuple):
    """One statement about one VM that was not heard before."""

    vm: bytes
    facets: Facets
    gone: str | None


class Heard(NamedTuple):
    """What one record of host.reports means for one partition, less what was heard before."""

    source: int
    offset: int
    host: bytes
    boot: bytes
    statements: list[Statement]
    inventory: list[bytes] | None
    events: list[int]
    force: bool
    """Part of a forced snapshot: what seems equal is looked at all the same."""


class Listener(NamedTuple):
    """Who follows: reports as they are heard, then the clock reading (source, tick) of their batch."""

    report: Callable[[Heard], None]
    clock: Callable[[int, int], None]


class Observations:
    """Reads vm.observations partition by partition."""

    def __init__(self, report: Report, admission: Admission, spans: dict[int, Span], grace_ticks: int | None) -> None:
        """`spans`: what was read of host.reports; later offsets can not be judged."""
        self._report, self._admission, self._spans, self._grace = report, admission, spans, grace_ticks
        self._newest: dict[int, int] = {}
        self._positions: dict[bytes, int] = {}
        self._silences: set[tuple[int, int, bytes]] = set()

    def read(self, partition: int, messages: Iterable[Message], listener: Listener) -> None:
        """Compare a partition and hand it on."""
        self._newest, self._positions = {}, {}
        for message in messages:
            self._report.looked_at["records of vm.observations"] += 1
            try:
                if not message.headers.get("schema", b"").startswith(b"ObservationBatch/"):
                    self._report.looked_at["other records in vm.observations"] += 1
                    continue
                batch = unpack(message.value or b"")
                source, tick = batch[0], batch[2]
                for one in batch[5]:
                    heard = self._hear(partition, message.offset, source, one)
                    if heard is not None:
                        listener.report(heard)
            except (Unreadable, ValueError, TypeError, LookupError, AttributeError) as problem:
                self._found(Kind.DIFFERING, f"unreadable: {problem}", partition, message.offset)
                continue
            listener.clock(source, tick)

    def close(self, left_out: Collection[tuple[int, int]]) -> None:
        """Everything was read: what was expected and never came is lost, unless the record was poison (`left_out`)."""
        for source, meanings in enumerate(self._admission.meanings):
            for offset, meaning in meanings.items():
                if (source, offset) in left_out:
                    self._report.looked_at["accepted reports that were put aside"] += 1
                    continue
                for vm, mark in (meaning.expected or {}).items():
                    if mark >= 0:
                        self._lost(source, offset, meaning, "its statement about this VM never travelled on", vm)
                if meaning.inventory is not None and meaning.inventory != (0, 0):
                    left = meaning.inventory[0]
                    self._lost(source, offset, meaning, f"{left} ids of its inventory did not travel on", None)

    def _lost(self, source: int, offset: int, meaning: Meaning, what: str, vm: bytes | None) -> None:
        self._report.add(
            Finding(
                kind=Kind.LOST,
                invariant="I1",
                what=f"{what} (not in vm.observations)",
                topic="host.reports",
                partition=source,
                offset=offset,
                host=text_of(meaning.host),
                vm=None if vm is None else text_of(vm),
            )
        )

    def _hear(self, partition: int, offset: int, source: int, one: list[Any]) -> Heard | None:
        at, host, boot = one[0], one[3], one[4]
        vms, inventory, events = one[7], one[8], one[9]
        if at >= self._spans[source].high:
            self._report.looked_at["observations beyond the end of host.reports"] += 1
            return None
        meaning = self._admission.meanings[source].get(at)
        if meaning is None and (vms or inventory is not None):
            what = f"speaks of host.reports[{source}]@{at}, which was not accepted"
            self._found(Kind.FOREIGN, what, partition, offset)
            return None
        first = self._positions.get(host, -1) < at
        if first and (events or inventory is not None):
            self._positions[host] = at
        new = [] if meaning is None else [
            said for vm in vms if (said := self._judge(partition, offset, source, at, meaning, vm)) is not None
        ]  # fmt: skip
        if inventory is not None and meaning is not None and first:
            self._account(meaning, inventory)
        said_events = [event[0] for event in events] if first else []
        for event in said_events:
            self._note_event(source, at, host, event)
        force = len(one) > 10 and bool(one[10])
        return Heard(source, at, host, boot, new, inventory if first else None, said_events, force)

    def _judge(
        self, partition: int, offset: int, source: int, at: int, meaning: Meaning, said: list[Any]
    ) -> Statement | None:
        """The statement if it was not heard before and is what must be said."""
        vm, facets, gone = said[0], said[1], said[2] if len(said) > 2 else None
        mark = statement_hash(vm, facets, gone)
        expected = (meaning.expected or {}).get(vm)
        allowed = (meaning.whole or {}).get(vm)
        true = allowed is not None and allowed.covers(facets, gone)
        if expected is None:
            if true:
                self._report.looked_at["observations that the gate could have held back"] += 1
            elif meaning.optional and gone == ABSENT:
                return Statement(vm, facets, gone)
            else:
                what = f"host.reports[{source}]@{at} says nothing of this VM that must travel on"
                self._found(Kind.FOREIGN, what, partition, offset, vm)
            return None
        if expected < 0:
            self._report.looked_at["repeated observations"] += 1
            if mark != ~expected and not true:
                self._found(Kind.DIFFERING, f"repeats host.reports[{source}]@{at} otherwise", partition, offset, vm)
            return None
        assert meaning.expected is not None
        meaning.expected[vm] = ~expected
        if mark != expected and not true:
            what = f"is not what host.reports[{source}]@{at} says of this VM"
            self._found(Kind.DIFFERING, what, partition, offset, vm)
        if at < self._newest.get(source, -1):
            what = f"host.reports[{source}]@{at} comes after @{self._newest[source]}"
            self._found(Kind.OUT_OF_ORDER, what, partition, offset, vm)
        self._newest[source] = max(at, self._newest.get(source, -1))
        self._report.looked_at["observations compared"] += 1
        return Statement(vm, facets, gone)

    @staticmethod
    def _account(meaning: Meaning, inventory: list[bytes]) -> None:
        if meaning.inventory is not None:
            count, total = meaning.inventory
            meaning.inventory = (count - len(inventory), (total - sum(map(hash64, inventory))) & U64)

    def _note_event(self, source: int, at: int, host: bytes, event: int) -> None:
        if event in _SHOWN_EVENTS:
            self._admission.host_changes.setdefault((source, at, host), f"host event {event}")
        if event in (SILENT, STOPPED) and (source, at, host) not in self._silences:
            self._silences.add((source, at, host))
            self._admission.say_silent(source, at, host, self._grace)

    def _found(self, kind: Kind, what: str, partition: int, offset: int, vm: bytes | None = None) -> None:
        self._report.add(
            Finding(
                kind=kind,
                invariant="I1",
                what=what,
                topic=VM_OBSERVATIONS,
                partition=partition,
                offset=offset,
                vm=None if vm is None else text_of(vm),
            )
        )
