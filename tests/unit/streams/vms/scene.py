"""A scene for the core of the vms stage: hosts that speak, partitions that tick, and the changes that come out.

Times are those of the log: a statement takes 10 ms, a tick a second. Every statement is an input record of its own.
"""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from schemas.codec import encode, header_of
from schemas.facets.console import Console, Display
from schemas.facets.identity import Identity
from schemas.facets.run import Migration, Run
from schemas.ids import AgentEpoch, BootId, HostId, VmId, uuid_text
from schemas.observation import HostEvent, HostObservation, ObservationBatch, ReportObservations, VmObservation
from schemas.resync import ResyncRequest
from schemas.status import ExitReason, ExitStatus, GoneReason, PauseReason, Status
from schemas.vm_change import VmChange
from streams.runtime.stage import Batch, Counts, Input, Output
from streams.vms.app import VmsStage
from streams.vms.core import VmsCore
from streams.vms.loading import VmsLoader

START_NS = 1_700_000_000_000_000_000
SECOND_NS = 1_000_000_000
STATEMENT_NS = 10_000_000
TOPIC_IDS = {"vm.observations": "00000000-0000-0000-0000-0000000000aa"}

VM = VmId(UUID(int=0xABCDEF).bytes)
EVENTS = {event.name.lower(): event for event in HostEvent}


def host_id(name: str) -> HostId:
    """Id of a host by its letter."""
    return HostId(UUID(int=0x5000 + sum(map(ord, name))).bytes)


def run(
    status: Status | str,
    *,
    host: str = "S",
    process: str | None = "1",
    peer: str | None = None,
    phase: str | None = None,
    reason: str | None = None,
    pause: str | None = None,
    exit_: str | None = None,
) -> Run:
    """A run facet; `exit_` is `normal/guest_shutdown` or the like, `peer` a host's letter."""
    word = Status(status)
    migrates = word in (Status.MIGRATING_FROM, Status.MIGRATING_TO) or phase is not None
    direction = "in" if word is Status.MIGRATING_TO else "out"
    exit_status, _, exit_reason = (exit_ or "").partition("/")
    return Run(
        status=word,
        reason=reason,
        process_id=None if process is None else f"{host}{process}",
        migration=None
        if not migrates
        else Migration(direction=direction, peer=None if peer is None else uuid_text(host_id(peer)), phase=phase),
        pause_reason=None if pause is None else PauseReason(pause),
        exit_status=ExitStatus(exit_status) if exit_status else None,
        exit_reason=ExitReason(exit_reason) if exit_reason else None,
    )


def facets_of(host: str, run_facet: Run | None, *others: msgspec.Struct) -> dict[str, bytes]:
    """Facet bytes by name, as an agent sends them."""
    facets = [*others] if run_facet is None else [run_facet, *others]
    return {type(facet).__name__.lower(): encode(facet) for facet in facets}


class Speaker:
    """A host as the scene knows it."""

    def __init__(self, name: str, source: int) -> None:
        self.name = name
        self.id = host_id(name)
        self.source = source
        self.boot = 1
        self.epoch = 1
        self.seq = 0
        self.introduced: set[VmId] = set()

    @property
    def boot_id(self) -> BootId:
        return BootId(UUID(int=(self.boot << 64) + int.from_bytes(self.id[8:], "big")).bytes)


class Scene:
    """Feeds a core and collects what it says."""

    def __init__(self, partitions: int = 2, *, loader: VmsLoader | None = None) -> None:
        self.partitions = partitions
        self.stage = VmsStage(partitions, TOPIC_IDS)
        self.core: VmsCore = (loader or self.stage.loader(0)).finish()
        self.now = START_NS
        self.log: list[Input] = []
        self.speakers: dict[str, Speaker] = {}
        self.offsets = [0] * partitions
        self.ticks = [0] * partitions
        self.tick_at = [0] * partitions
        self.outputs: list[Output] = []
        self.batches: list[Batch] = []
        self.counts: list[Counts] = []

    def host(self, name: str, source: int = 0, *, confirmed: bool = True) -> Speaker:
        """A host that is heard, and confirmed unless told otherwise."""
        speaker = self.speakers[name] = Speaker(name, source)
        if confirmed:
            self.say(name, events=["back", "confirmed"])
        return speaker

    def see(
        self,
        name: str,
        status: Status | str,
        *,
        process: str | None = "1",
        peer: str | None = None,
        phase: str | None = None,
        reason: str | None = None,
        pause: str | None = None,
        exit_: str | None = None,
        age_seconds: float = 0,
        events: Sequence[str] = (),
    ) -> list[VmChange]:
        """A host says what the VM does."""
        facet = run(status, host=name, process=process, peer=peer, phase=phase, reason=reason, pause=pause, exit_=exit_)
        return self.tell(name, facet, age_seconds=age_seconds, events=events)

    def tell(
        self,
        name: str,
        *facets: msgspec.Struct,
        vm: VmId = VM,
        gone: GoneReason | None = None,
        age_seconds: float = 0,
        events: Sequence[str] = (),
    ) -> list[VmChange]:
        """A host sends these facets of a VM. The first time it says everything it knows of it."""
        told = {**introduction(self, name, vm), **facets_of(name, None, *facets)}
        return self.say(name, vms=[VmObservation(vm, told, gone)], age_seconds=age_seconds, events=events)

    def gone(self, name: str, reason: str = "absent", *, vm: VmId = VM, events: Sequence[str] = ()) -> list[VmChange]:
        """The VM left the host's list."""
        self.speakers[name].introduced.discard(vm)
        return self.say(name, vms=[VmObservation(vm, {}, GoneReason(reason))], events=events)

    def boot(self, name: str) -> None:
        """The host boots: another boot id, another agent."""
        speaker = self.speakers[name]
        speaker.boot += 1
        speaker.epoch += 1
        speaker.introduced.clear()

    def say(
        self,
        name: str,
        *,
        vms: Sequence[VmObservation] = (),
        inventory: Sequence[VmId] | None = None,
        events: Sequence[str] = (),
        age_seconds: float = 0,
        offset: int | None = None,
    ) -> list[VmChange]:
        """One report of a host, in an input record of its own; gives the changes it made."""
        speaker = self.speakers[name]
        if inventory is not None:
            speaker.introduced &= set(inventory)
        speaker.seq += 1
        self.now += STATEMENT_NS
        if offset is None:
            offset = self.offsets[speaker.source] = self.offsets[speaker.source] + 1
        at = self.now - int(age_seconds * SECOND_NS)
        report = ReportObservations(
            offset,
            at,
            at,
            speaker.id,
            speaker.boot_id,
            AgentEpoch(UUID(int=speaker.epoch).bytes),
            speaker.seq,
            list(vms),
            None if inventory is None else list(inventory),
            [HostObservation(EVENTS[event]) for event in events],
        )
        return self.feed(speaker.source, [report])

    def tick(self, ticks: int = 1, *, without: Sequence[int] = (), step: int = 1) -> list[VmChange]:
        """So many seconds pass in which every partition ticks, but those left out; heard every `step` ticks."""
        changes = []
        for _ in range(0, ticks, step):
            self.now += SECOND_NS * step
            for source in range(self.partitions):
                if source not in without:
                    self.offsets[source] += step
                    self.ticks[source] += step
                    self.tick_at[source] = self.now
                    changes += self.feed(source, [])
        return changes

    def feed(self, source: int, reports: list[ReportObservations]) -> list[VmChange]:
        """One input record of a hosts partition, with its clock reading."""
        batch = ObservationBatch(
            source=source,
            log=0,
            tick=self.ticks[source],
            tick_at=self.tick_at[source],
            rules_version=1,
            reports=reports,
        )
        return self.apply(encode(batch), header_of(ObservationBatch))

    def apply(self, value: bytes, schema: bytes | None) -> list[VmChange]:
        """One input record as it stands."""
        record = Input(0, len(self.log), self.now, None, value, schema)
        self.log.append(record)
        self.core.apply(record)
        batch = self.core.seal()
        self.counts += self.core.drain_counts()
        self.batches.append(batch)
        self.outputs += batch.outputs
        return changes_in(batch.outputs)

    @property
    def changes(self) -> list[VmChange]:
        """Everything published so far."""
        return changes_in(self.outputs)

    @property
    def last(self) -> VmChange:
        return self.changes[-1]

    @property
    def requests(self) -> list[ResyncRequest]:
        return [
            msgspec.msgpack.decode(out.value, type=ResyncRequest)
            for out in self.outputs
            if out.topic == "resync.requests" and out.value is not None
        ]


def introduction(scene: Scene, name: str, vm: VmId) -> dict[str, bytes]:
    """What a host says of a VM besides its run, the first time it speaks of it; the console names the host."""
    introduced = scene.speakers[name].introduced
    if vm in introduced:
        return {}
    introduced.add(vm)
    return facets_of(name, None, Identity(name="vm", vcpus=2), Console(displays=[Display(type="vnc", address=name)]))


def changes_in(outputs: Sequence[Output]) -> list[VmChange]:
    """The public changes among these outputs."""
    decoder = msgspec.msgpack.Decoder(VmChange)
    return [decoder.decode(out.value) for out in outputs if out.topic == "vm.changes" and out.value is not None]


def brief(change: VmChange) -> str:
    """A change in one line: cause, status, doubt, host by letter, and what else tells outcomes apart."""
    letters = {uuid_text(host_id(name)): name for name in "SDEHG12345"}
    doubt = change.availability.state.value
    if change.availability.reasons:
        doubt += "/" + ",".join(change.availability.reasons)
    words = [change.cause.value, change.status.value, doubt, letters.get(change.host_id or "", "-")]
    if change.exit is not None:
        words.append(f"{change.exit.status}/{change.exit.reason}")
    return " ".join(words)
