"""What the applied inputs have to say, until the runtime seals a batch.

Observations are collected per vms partition and merged: a message costs the same whatever it holds. Each batch
carries the clock; partitions that heard nothing for some ticks get the clock alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from schemas.codec import SCHEMA_HEADER, Record, encode, header_of
from schemas.dead_letter import dead_letter_headers, letter_value
from schemas.ids import uuid_bytes, uuid_text
from schemas.observation import ObservationBatch, ReportObservations, VmObservation
from schemas.resync import ResyncRequest
from schemas.rules import RULES_VERSION
from streams.hosts.turn import FACET_BYTES, VM_BYTES, Turn
from streams.runtime.stage import Input, Output

MESSAGE_TARGET_BYTES = 768 * 1024
"""Estimated size at which another message is begun; real ones stay below 1 MiB."""
_REPORT_BYTES = 160
_ATTEMPTS: dict[str, int | None] = {"poison": 2, "too_large": 2, "crash": None}
"""How often a dead letter was tried: whole, then with care."""
_ID_BYTES = 18


@dataclass(frozen=True, kw_only=True, slots=True)
class HostsTopics:
    """Names of the topics, without prefix."""

    reports: str
    table: str
    observations: str
    changes: str
    state: str
    resync: str
    dead_letters: str


JOINS_ANYTHING = -1

Sized = tuple[ReportObservations, int]
"""With its estimated size in bytes."""


class Outbound:
    """Outputs of one partition since the last seal."""

    def __init__(self, topics: HostsTopics, *, partition: int, partitions: int, log: int) -> None:
        self.topics = topics
        self.count = 0
        """Outputs so far, observations counted as they were stated."""
        self.urgent = False
        """Set when something was added that should not wait."""
        self._partition = partition
        self._log = log
        self._outputs: list[Output] = []
        self._reports: list[list[Sized]] = [[] for _ in range(partitions)]
        self._clocks: list[tuple[int, int]] = [(0, 0)] * partitions
        """(tick, tick_at) that each vms partition was told last; after a load they are told again."""
        self._until = [JOINS_ANYTHING] * partitions
        """Offset up to which each vms partition was told everything. What was said before a load was delivered before
        the row was, but how much of it concerned whom is not known any more."""

    def tell_sums(self, turn: Turn) -> None:
        """Take a host's sums, one for each vms partition; they ride with what else goes there."""
        for target in range(len(self._reports)):
            self._add(target, turn)

    def observe(self, turn: Turn) -> None:
        """Take what the turn says to the vms partitions; inventory and host events go to all of them."""
        self.urgent = True
        if turn.events or turn.inventory is not None:
            for target in range(len(self._reports)):
                self._add(target, turn)
        else:
            for target in turn.vms:
                self._add(target, turn)

    def produce(self, topic: str, key: bytes, record: Record, *, urgent: bool = True) -> None:
        """Take a record about a host; it goes to the partition of the host."""
        self.urgent = self.urgent or urgent
        headers = ((SCHEMA_HEADER, header_of(type(record))),)
        self._outputs.append(Output(topic, self._partition, key, encode(record), headers))
        self.count += 1

    def request(self, key: bytes, request: ResyncRequest) -> None:
        """Ask an agent."""
        self.produce(self.topics.resync, key, request)

    def dead_letter(self, record: Input, value: bytes, reason: str, error: str, schema: bytes | None) -> None:
        """Put bytes nobody can use aside, with their position."""
        kept, size = letter_value(value)
        headers = dead_letter_headers(
            topic=self.topics.reports,
            partition=record.partition,
            offset=record.offset,
            stage="hosts",
            reason=reason,
            error=error,
            schema=schema,
            appended_at=record.appended_at,
            attempts=_ATTEMPTS.get(reason, 1),
            host=_host_text(record.key),
            size=size,
        )
        self.urgent = True
        self._outputs.append(Output(self.topics.dead_letters, self._partition, record.key, kept, tuple(headers)))
        self.count += 1

    def seal(self, tick: int, tick_at: int, forward_ticks: int, applied: int) -> list[Output]:
        """Everything up to the offset `applied`, encoded, and nothing kept."""
        outputs, self._outputs = self._outputs, []
        for target, reports in enumerate(self._reports):
            if reports:
                self._reports[target] = []
                outputs.extend(self._messages(target, reports, tick, tick_at, applied))
            elif tick >= self._clocks[target][0] + forward_ticks:
                outputs.append(self._message(target, [], (tick, tick_at), applied))
            else:
                continue
            self._clocks[target] = (tick, tick_at)
        self.count = 0
        return outputs

    def _add(self, target: int, turn: Turn) -> None:
        moment, row = turn.moment, turn.row
        inventory = None if turn.inventory is None else turn.inventory.get(target, [])
        report = ReportObservations(
            moment.offset,
            moment.appended_at,
            moment.observed_at,
            turn.host.host_id,
            row.boot_id,
            row.agent_epoch,
            moment.seq,
            turn.vms.get(target, []),
            inventory,
            turn.events,
            turn.force,
            None if turn.sums is None else turn.sums[target],
            turn.answers,
        )
        size = _REPORT_BYTES + turn.sizes.get(target, 0) + _ID_BYTES * len(inventory or ())
        self._reports[target].append((report, size))
        self.count += 1

    def _messages(self, target: int, reports: list[Sized], tick: int, tick_at: int, applied: int) -> Iterator[Output]:
        """All but the last carry the clock as it was: what comes behind them may be older than the newest tick."""
        *earlier, last = _filled(reports)
        for chunk in earlier:
            yield self._message(target, chunk, self._clocks[target], chunk[-1].offset)
        yield self._message(target, last, (tick, tick_at), applied)

    def _message(self, target: int, reports: list[ReportObservations], clock: tuple[int, int], until: int) -> Output:
        batch = ObservationBatch(
            source=self._partition,
            log=self._log,
            tick=clock[0],
            tick_at=clock[1],
            rules_version=RULES_VERSION,
            reports=reports,
            since=self._until[target],
            until=until,
        )
        self._until[target] = until
        return Output(self.topics.observations, target, None, encode(batch), _BATCH_HEADERS)


def _host_text(key: bytes | None) -> str | None:
    """The host that the key names; whether the record is of that host is another matter."""
    text = (key or b"").decode("ascii", "replace")
    try:
        return uuid_text(uuid_bytes(text))
    except ValueError:
        return None


_BATCH_HEADERS = ((SCHEMA_HEADER, header_of(ObservationBatch)),)


def _filled(reports: list[Sized]) -> list[list[ReportObservations]]:
    """The reports in order, in chunks of at most the target size each."""
    chunks: list[list[ReportObservations]] = [[]]
    filled = 0
    for whole in reports:
        for piece, size in [whole] if whole[1] <= MESSAGE_TARGET_BYTES else _pieces(*whole):
            if chunks[-1] and filled + size > MESSAGE_TARGET_BYTES:
                chunks.append([])
                filled = 0
            chunks[-1].append(piece)
            filled += size
    return chunks


def _pieces(report: ReportObservations, size: int) -> Iterator[Sized]:
    """Parts of a report that each fit; inventory and host events stay with the last."""
    sizes = [_vm_bytes(vm) for vm in report.vms]
    rest = size - sum(sizes)
    budget = max(MESSAGE_TARGET_BYTES - rest, MESSAGE_TARGET_BYTES // 8)
    begin = filled = 0
    for at, size in enumerate(sizes):
        if at > begin and filled + size > budget:
            yield (
                msgspec.structs.replace(report, vms=report.vms[begin:at], inventory=None, host=[], answers=None),
                filled,
            )
            begin, filled = at, 0
        filled += size
    yield msgspec.structs.replace(report, vms=report.vms[begin:]), rest + filled


def _vm_bytes(vm: VmObservation) -> int:
    return VM_BYTES + FACET_BYTES * len(vm.facets) + sum(map(len, vm.facets.values()))
