"""Oracle of what the log means, host by host: which reports count, and what passes to the vms stage (design §4).

One pure fold over `host.reports`, record by record, single-threaded, on state of its own:

- admission by (boot, epoch, seq): repeats and reports of a retired epoch do not count, except of the agent that is
  left alone in a host conflict;
- the gate: facets whose bytes are those last said about this VM by this host do not pass; a snapshot asked with force
  passes whole (and forgets the others' bytes); facets with an unknown name or above 64 KiB never pass (dead letters);
- gone entries, and absence by the inventory of a snapshot's last part, not while two agents speak for the host.

What must follow is kept as `Meaning`s: per report a hash of what is said about each VM, so memory grows by about
200 bytes per statement and not with the facets.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import NamedTuple

import xxhash

from tests.verifier.facets import FACET_LIMIT_BYTES, HOST_FACETS, VM_FACETS, marks_of
from tests.verifier.findings import Finding, Kind, Report
from tests.verifier.logs import HOST_REPORTS, Message
from tests.verifier.records import U64, Unreadable, hash64, text_of, unpack_map
from tests.verifier.reports import TICK_KEY, Facets, HostReport, check_home, read_report, read_tick

ABSENT = "absent"
_SECOND_NS = 1_000_000_000
_STALE_NS = 5 * _SECOND_NS
_SPACING_NS = 9 * _SECOND_NS // 10


def statement_hash(vm: bytes, facets: Facets, gone: str | None) -> int:
    """63 bits for one statement about one VM; the order of facets does not matter."""
    hashed = xxhash.xxh3_64(vm)
    hashed.update((gone or "").encode() + b"\0")
    for name in sorted(facets):
        hashed.update(b"%b\0%d\0" % (name.encode(), len(facets[name])))
        hashed.update(facets[name])
    return hashed.intdigest() >> 1


class Allowed(NamedTuple):
    """More than must pass may pass: a stage that lost its marks knows no better."""

    marks: dict[str, int]
    """Hash of the bytes of every facet in the report."""
    needed: frozenset[str]
    """Facets that must pass."""

    def covers(self, facets: Facets, gone: str | None) -> bool:
        """Is this statement true, and does it say what must be said?"""
        true = all(self.marks.get(name) == hash64(data) for name, data in facets.items())
        return gone is None and true and self.needed <= facets.keys()


class Meaning:
    """What one accepted record must lead to."""

    __slots__ = ("appended_at", "boot", "expected", "host", "inventory", "observed_at", "optional", "seq", "whole")

    def __init__(self, report: HostReport, appended_at: int) -> None:
        self.host = report.host
        self.boot = report.boot
        self.seq = report.seq
        self.appended_at = appended_at
        self.observed_at = report.observed_at
        self.expected: dict[bytes, int] | None = None
        """VM -> hash of the statement that must pass; taken out as ~hash when it was seen."""
        self.whole: dict[bytes, Allowed] | None = None
        """VM -> what may pass, where the gate held something back."""
        self.optional = False
        """In a host conflict: absence may or may not be told."""
        self.inventory: tuple[int, int] | None = None
        """Number and order-free sum of the listed ids that were not yet seen to travel on."""


class Speaker:
    """A host as its agents' words leave it."""

    __slots__ = ("alone_since", "asked", "boot", "conflict", "epoch", "epoch_at", "facets", "machine", "progress",
                 "retired", "seq", "stale", "vms")  # fmt: skip

    def __init__(self) -> None:
        self.machine = self.boot = self.epoch = b""
        self.seq = 0
        self.epoch_at = 0
        self.retired: set[tuple[bytes, bytes]] = set()
        self.stale: tuple[bytes, int] = (b"", 0)
        self.conflict: bytes | None = None
        """Epoch that spoke last, while two agents speak."""
        self.alone_since = 0
        self.asked = False
        self.progress: tuple[bytes, int] | None = None
        """Snapshot and parts heard, while no part is missing."""
        self.vms: dict[bytes, dict[str, int]] = {}
        """VM -> facet -> hash of the bytes last said."""
        self.facets: dict[str, int] = {}


class Admission:
    """The fold of all partitions of host.reports; `meanings[partition][offset]` is what each record means."""

    def __init__(self, report: Report, partitions: int) -> None:
        self.meanings: list[dict[int, Meaning]] = [{} for _ in range(partitions)]
        self.ticks: list[dict[int, list[tuple[int, int]]]] = [{} for _ in range(partitions)]
        """Per partition: number -> (offset, append time) of the records that carry it."""
        self.tick_offsets: list[dict[int, int]] = [{} for _ in range(partitions)]
        self.rejected: dict[tuple[int, int], str] = {}
        """Records that nobody can use, with the reason."""
        self.refused_facets: dict[tuple[int, int], int] = {}
        """Facets that must not pass, by record."""
        self.host_changes: dict[tuple[int, int, bytes], str] = {}
        """(partition, offset, host) that must make a host.change, and why."""
        self._report, self._partitions = report, partitions
        self._hosts: dict[bytes, Speaker] = {}
        self._tick = [0] * partitions
        self._tick_at = [0] * partitions

    def read(self, partition: int, messages: Iterable[Message]) -> None:
        """Fold a partition."""
        for message in messages:
            self._report.looked_at["records of host.reports"] += 1
            if message.key == TICK_KEY:
                self._take_tick(partition, message)
                continue
            if (message.key or b"").startswith(b"#"):
                self._report.looked_at["other records in host.reports"] += 1
                continue
            try:
                report = read_report(message)
                speaker = self._speaker(partition, message, report)
            except Unreadable as problem:
                self.rejected[partition, message.offset] = str(problem)
                continue
            if self._admit(partition, speaker, report, message):
                self._mean(partition, speaker, report, message)

    def _take_tick(self, partition: int, message: Message) -> None:
        try:
            tick = read_tick(message)
        except Unreadable:
            return  # refused and counted by the stage, no dead letter
        self.ticks[partition].setdefault(tick.n, []).append((message.offset, message.appended_at))
        self.tick_offsets[partition][message.offset] = tick.n
        follows = tick.n == self._tick[partition] + 1
        if follows and (tick.n == 1 or message.appended_at >= self._tick_at[partition] + _SPACING_NS):
            self._tick[partition], self._tick_at[partition] = tick.n, message.appended_at

    def _speaker(self, partition: int, message: Message, report: HostReport) -> Speaker:
        speaker = self._hosts.get(report.host)
        if speaker is None or message.key != text_of(report.host).encode():
            check_home(message, report, partition, self._partitions)
            return self._hosts.setdefault(report.host, Speaker())
        if report.epoch == speaker.epoch and report.machine != speaker.machine:
            raise Unreadable("another machine_id in the same epoch")
        return speaker

    def _admit(self, partition: int, speaker: Speaker, report: HostReport, message: Message) -> bool:
        tick = self._tick[partition]
        current = (report.boot, report.epoch) == (speaker.boot, speaker.epoch)
        if current and report.seq <= speaker.seq:
            self._report.looked_at["repeated reports"] += 1
            return False
        if speaker.conflict is not None and speaker.conflict != report.epoch:
            speaker.conflict, speaker.alone_since, speaker.asked = report.epoch, tick, False
        stale = not current and (report.boot, report.epoch) in speaker.retired
        if stale and not self._alone(speaker, tick):
            self._hear_stale(speaker, report, message, tick)
            return False
        if not current:
            self._begin_epoch(partition, speaker, report, message, again=stale)
        elif report.seq != speaker.seq + 1:
            speaker.progress = None
        speaker.seq = report.seq
        return True

    @staticmethod
    def _alone(speaker: Speaker, tick: int) -> bool:
        grace = min(20 + ceil(0.02 * len(speaker.vms)), 120)
        return speaker.conflict is not None and tick - speaker.alone_since >= grace

    @staticmethod
    def _hear_stale(speaker: Speaker, report: HostReport, message: Message, tick: int) -> None:
        if speaker.conflict is not None or message.appended_at <= speaker.epoch_at + _STALE_NS:
            return
        epoch, heard = speaker.stale
        speaker.stale = (report.epoch, heard + 1 if epoch == report.epoch else 1)
        if speaker.stale[1] >= 2:
            speaker.conflict, speaker.alone_since, speaker.asked = report.epoch, tick, False

    def _begin_epoch(
        self, partition: int, speaker: Speaker, report: HostReport, message: Message, *, again: bool
    ) -> None:
        if speaker.epoch:
            speaker.retired.add((speaker.boot, speaker.epoch))
            if report.machine != speaker.machine and not again:
                speaker.conflict, speaker.alone_since, speaker.asked = report.epoch, self._tick[partition], False
        speaker.retired.discard((report.boot, report.epoch))
        speaker.machine, speaker.boot, speaker.epoch = report.machine, report.boot, report.epoch
        speaker.epoch_at, speaker.seq, speaker.stale, speaker.progress = message.appended_at, 0, (b"", 0), None
        self.host_changes[partition, message.offset, report.host] = "another agent speaks for the host"

    def _mean(self, partition: int, speaker: Speaker, report: HostReport, message: Message) -> None:
        meaning = self.meanings[partition][message.offset] = Meaning(report, message.appended_at)
        self._report.looked_at["accepted reports"] += 1
        place = (partition, message.offset)
        for vm, reason in report.gone:
            speaker.vms.pop(vm, None)
            if all(vm != listed for listed, _ in report.vms):
                self._expect(meaning, vm, {}, reason)
        for vm, facets in report.vms:
            self._take_vm(place, speaker, meaning, vm, facets, report)
        self._take_host_facets(place, speaker, report)
        if report.kind == "snapshot":
            self._advance(speaker, report)
            if report.inventory is not None:
                self._end_snapshot(partition, speaker, report, meaning)
        elif self._alone(speaker, self._tick[partition]) and report.kind == "changes":
            speaker.asked = True

    def _expect(self, meaning: Meaning, vm: bytes, facets: Facets, gone: str | None) -> None:
        if meaning.expected is None:
            meaning.expected = {}
        meaning.expected[vm] = statement_hash(vm, facets, gone)
        self._report.looked_at["expected observations"] += 1

    def _take_vm(
        self, place: tuple[int, int], speaker: Speaker, meaning: Meaning, vm: bytes, facets: Facets, report: HostReport
    ) -> None:
        before = speaker.vms.get(vm)
        whole = report.kind == "snapshot"
        said: dict[str, int] = {} if before is None or (whole and report.force) else before
        passed: Facets = {}
        sound: Facets = {}
        for name, data in facets.items():
            if name not in VM_FACETS or len(data) > FACET_LIMIT_BYTES:
                self.refused_facets[place] = self.refused_facets.get(place, 0) + 1
                continue
            sound[name] = data
            mark = hash64(data)
            if report.force or before is None or before.get(name) != mark:
                passed[name] = data
            said[name] = mark
        speaker.vms[vm] = said
        if passed or before is None or report.force:
            self._expect(meaning, vm, passed, None)
        if len(passed) < len(sound):
            if meaning.whole is None:
                meaning.whole = {}
            meaning.whole[vm] = Allowed({name: said[name] for name in sound}, frozenset(passed))

    def _take_host_facets(self, place: tuple[int, int], speaker: Speaker, report: HostReport) -> None:
        for name, data in report.host_facets.items():
            if name not in HOST_FACETS or len(data) > FACET_LIMIT_BYTES:
                continue
            try:
                normal = marks_of(name, unpack_map(data)).normal
            except Unreadable:
                continue  # in dead.letters
            if speaker.facets.get(name) != normal:
                speaker.facets[name] = normal
                self.host_changes.setdefault((*place, report.host), f"facet {name} changed")

    @staticmethod
    def _advance(speaker: Speaker, report: HostReport) -> None:
        if report.part == 1:
            speaker.progress = (report.snapshot, 1)
        elif speaker.progress == (report.snapshot, report.part - 1):
            speaker.progress = (report.snapshot, report.part)
        else:
            speaker.progress = None

    def _end_snapshot(self, partition: int, speaker: Speaker, report: HostReport, meaning: Meaning) -> None:
        whole, speaker.progress = speaker.progress is not None, None
        if speaker.conflict is not None:
            if not (whole and speaker.asked and report.answers):
                meaning.optional = True
                return
            speaker.conflict = None
        listed = set(report.inventory or ())
        for vm in [vm for vm in speaker.vms if vm not in listed]:
            del speaker.vms[vm]
            self._expect(meaning, vm, {}, ABSENT)
        meaning.inventory = (len(listed), sum(map(hash64, listed)) & U64)

    def say_silent(self, partition: int, offset: int, host: bytes, least_ticks: int | None) -> None:
        """The stage calls this host silent as of this tick; it must not have been heard for its grace (H1)."""
        speaker = self._hosts.get(host)
        tick = self.tick_offsets[partition].get(offset)
        if speaker is None or tick is None:
            what = "silence of a host that never spoke" if speaker is None else "silence whose evidence is no tick"
            self._found(what, partition, offset, host)
        elif least_ticks is not None and self._heard_within(partition, offset, host, tick, least_ticks):
            self._found(f"called silent within {least_ticks} ticks of its last report", partition, offset, host)

    def _heard_within(self, partition: int, offset: int, host: bytes, tick: int, least_ticks: int) -> bool:
        first = self.ticks[partition].get(tick - least_ticks + 1)
        begin = first[0][0] if first else 0
        return any(
            meaning.host == host
            for at in range(begin, offset)
            if (meaning := self.meanings[partition].get(at)) is not None
        )

    def _found(self, what: str, partition: int, offset: int, host: bytes) -> None:
        self._report.add(
            Finding(
                kind=Kind.FOREIGN,
                invariant="I7",
                what=what,
                topic=HOST_REPORTS,
                partition=partition,
                offset=offset,
                host=text_of(host),
            )
        )
