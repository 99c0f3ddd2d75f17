"""A small fleet for tests of the hosts stage: agents that keep their digest right, a log, and a reader of outputs."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from schemas.change import Cause
from schemas.codec import Record, decode, encode, header_of
from schemas.fingerprints import NO_VM, U64, low64, raw_fingerprint, storage_facet
from schemas.host_change import HostChange, HostState
from schemas.ids import (
    AgentEpoch,
    BootId,
    HostId,
    MachineId,
    RequestId,
    SnapshotId,
    VmId,
    key_of,
    partition_of,
)
from schemas.observation import HostEvent, ObservationBatch, ReportObservations
from schemas.report import Changes, Farewell, Gone, HostReport, SnapshotPart, VmFacets
from schemas.resync import ResyncRequest
from schemas.rules import RULES_VERSION
from schemas.status import GoneReason
from schemas.tick import TICK_KEY, Tick, sign_tick
from streams.hosts.app import TOPICS
from streams.hosts.core import HostsConfig, HostsCore
from streams.hosts.loader import HostsLoader
from streams.hosts.policy import SECOND_NS, HostsPolicy
from streams.runtime.stage import Batch, Input, Output

PARTITIONS = 3
SECRET = b"only the workers of the stage know it"
TOPIC_ID = "9c5ad9cf-93d8-4ae1-a7c5-0f6d1a1fbb2d"
START_NS = 1_700_000_000 * SECOND_NS
OWNER = b"o" * 16
PARTITION = 1


def make_config(policy: HostsPolicy | None = None, *, log: int = 1) -> HostsConfig:
    """A configuration of three partitions."""
    return HostsConfig(
        topics=TOPICS,
        partitions=PARTITIONS,
        tick_secret=SECRET,
        reports_topic_id=TOPIC_ID,
        log=log,
        policy=policy or HostsPolicy(),
    )


@cache
def host_at(index: int, partition: int = PARTITION) -> HostId:
    """The index-th host id that belongs to the partition."""
    seen = -1
    for number in range(1 << 20):
        host_id = HostId(b"host" + number.to_bytes(12, "big"))
        if partition_of(key_of(host_id), PARTITIONS) == partition:
            seen += 1
            if seen == index:
                return host_id
    raise AssertionError("no such host")


def vm(index: int) -> VmId:
    """The index-th VM id."""
    return VmId(b"vm__" + index.to_bytes(12, "big"))


class Agent:
    """One host's agent: what it holds, and the reports that say so."""

    def __init__(self, host_id: HostId, *, epoch: int = 1, boot: int = 1, machine: int = 1) -> None:
        self.host_id = host_id
        self.vms: dict[VmId, dict[str, bytes]] = {}
        self.host: dict[str, bytes] = {}
        self.storage: dict[str, bytes] = {}
        self.seq = 0
        self.machine_id = MachineId(machine.to_bytes(16, "big"))
        self.boot_id = BootId(boot.to_bytes(16, "big"))
        self.epoch = AgentEpoch(epoch.to_bytes(16, "big"))
        self.skew_ns = 0

    def digest(self) -> int:
        """Sum over all that the agent holds."""
        marks = [raw_fingerprint(one, name, data) for one, facets in self.vms.items() for name, data in facets.items()]
        marks += [raw_fingerprint(NO_VM, name, data) for name, data in self.host.items()]
        marks += [raw_fingerprint(NO_VM, storage_facet(name), data) for name, data in self.storage.items()]
        return sum(map(low64, marks)) & U64

    def say(self, body: Changes | SnapshotPart | Farewell) -> HostReport:
        """The next report with this body; time is filled in by the log."""
        self.seq += 1
        return HostReport(
            host_id=self.host_id,
            machine_id=self.machine_id,
            boot_id=self.boot_id,
            agent_epoch=self.epoch,
            seq=self.seq,
            observed_at=0,
            observed_monotonic_ns=0,
            sent_at=0,
            sent_monotonic_ns=0,
            vm_count=len(self.vms),
            digest=self.digest(),
            body=body,
        )

    def heartbeat(self) -> HostReport:
        """Nothing changed."""
        return self.say(Changes())

    def change(
        self,
        vms: dict[VmId, dict[str, bytes]] | None = None,
        *,
        gone: dict[VmId, GoneReason] | None = None,
        host: dict[str, bytes] | None = None,
        storage: dict[str, bytes] | None = None,
        storage_gone: tuple[str, ...] = (),
    ) -> HostReport:
        """These facets changed, these VMs are gone."""
        for vm_id in gone or {}:
            self.vms.pop(vm_id, None)
        for vm_id, facets in (vms or {}).items():
            self.vms.setdefault(vm_id, {}).update(facets)
        self.host.update(host or {})
        for domain in storage_gone:
            del self.storage[domain]
        self.storage.update(storage or {})
        return self.say(
            Changes(
                vms=[VmFacets(vm_id=vm_id, facets=facets) for vm_id, facets in (vms or {}).items()],
                gone=[Gone(vm_id=vm_id, reason=reason) for vm_id, reason in (gone or {}).items()],
                host=host or {},
                storage=storage or {},
                storage_gone=list(storage_gone),
            )
        )

    def snapshot(self, parts: int = 1, *, force: bool = False, answers: tuple[RequestId, ...] = ()) -> list[HostReport]:
        """Everything, in so many parts."""
        snapshot_id = SnapshotId((self.seq + 1).to_bytes(16, "big"))
        ids = list(self.vms)
        size = -(-len(ids) // parts)
        return [
            self.say(
                SnapshotPart(
                    snapshot_id=snapshot_id,
                    part=part,
                    parts=parts,
                    vms=[
                        VmFacets(vm_id=vm_id, facets=dict(self.vms[vm_id]))
                        for vm_id in ids[(part - 1) * size : part * size]
                    ],
                    host=dict(self.host) if part == 1 else {},
                    storage=dict(self.storage) if part == 1 else {},
                    answers=list(answers),
                    force=force,
                    inventory=ids if part == parts else None,
                )
            )
            for part in range(1, parts + 1)
        ]

    def restarted(self, *, boot: bool = False, epoch: int | None = None) -> "Agent":
        """The agent as it starts again, perhaps after a boot; it knows what it knew."""
        number = int.from_bytes(self.epoch, "big") + 1 if epoch is None else epoch
        other = Agent(self.host_id, epoch=number, machine=int.from_bytes(self.machine_id, "big"))
        other.boot_id = BootId((int.from_bytes(self.boot_id, "big") + boot).to_bytes(16, "big"))
        other.vms = {vm_id: dict(facets) for vm_id, facets in self.vms.items()}
        other.host, other.storage = dict(self.host), dict(self.storage)
        return other


@dataclass
class Said:
    """Outputs, decoded."""

    reports: list[tuple[int, ReportObservations]] = field(default_factory=list)
    """(vms partition, observations)"""
    batches: list[tuple[int, ObservationBatch]] = field(default_factory=list)
    changes: list[HostChange] = field(default_factory=list)
    states: list[HostState] = field(default_factory=list)
    requests: list[ResyncRequest] = field(default_factory=list)
    dead: list[Output] = field(default_factory=list)

    def add(self, outputs: list[Output]) -> None:
        """Decode by topic."""
        for output in outputs:
            if output.topic == TOPICS.dead_letters:
                self.dead.append(output)
                continue
            batch = self._decoded(output)
            if isinstance(batch, ObservationBatch):
                self.batches.append((output.partition, batch))
                self.reports += [(output.partition, report) for report in batch.reports]

    def _decoded(self, output: Output) -> Record:
        header, value = dict(output.headers)["schema"], output.value
        assert value is not None
        if output.topic == TOPICS.observations:
            return decode(ObservationBatch, value, header)
        if output.topic == TOPICS.changes:
            self.changes.append(decode(HostChange, value, header))
            return self.changes[-1]
        if output.topic == TOPICS.state:
            self.states.append(decode(HostState, value, header))
            return self.states[-1]
        assert output.topic == TOPICS.resync
        self.requests.append(decode(ResyncRequest, value, header))
        return self.requests[-1]

    @property
    def vms(self) -> dict[VmId, tuple[dict[str, bytes], GoneReason | None]]:
        """The last statement about each VM."""
        return {one.vm_id: (one.facets, one.gone) for _, report in self.reports for one in report.vms}

    @property
    def events(self) -> list[HostEvent]:
        """Host events as partition 0 hears them."""
        return [said.event for target, report in self.reports if target == 0 for said in report.host]

    @property
    def mass(self) -> list[bool]:
        """Of the host events, in the same order."""
        return [said.mass for target, report in self.reports if target == 0 for said in report.host]

    @property
    def causes(self) -> list[Cause]:
        """Of the changes."""
        return [change.cause for change in self.changes]

    @property
    def inventory(self) -> dict[int, list[VmId]]:
        """The last inventory by partition."""
        return {target: report.inventory for target, report in self.reports if report.inventory is not None}

    def dead_reasons(self) -> list[str]:
        """Why records were put aside."""
        return [dict(output.headers)["dlq.reason"].decode() for output in self.dead]


def inputs_of(record: HostReport, *, offset: int, at: int, partition: int = PARTITION) -> Input:
    """The report as the core gets it."""
    return Input(partition, offset, at, key_of(record.host_id), encode(record), header_of(HostReport))


def tick_input(n: int, *, offset: int, at: int, owner: bytes = OWNER, rules_version: int = RULES_VERSION) -> Input:
    """A signed tick."""
    mac = sign_tick(SECRET, TOPIC_ID, PARTITION, n)
    tick = Tick(n=n, owner=owner, rules_version=rules_version, mac=mac)
    return Input(PARTITION, offset, at, TICK_KEY, encode(tick), header_of(Tick))


class World:
    """A core, its log and its time. Every call returns what the core said because of it."""

    def __init__(self, policy: HostsPolicy | None = None) -> None:
        self.config = make_config(policy)
        self.loader_rows: list[Batch] = []
        self.core = HostsLoader(self.config, PARTITION).finish()
        self.now = START_NS
        self.offset = 0
        self.log: list[Input] = []
        self.counted: dict[tuple[str, tuple[str, ...]], int] = {}

    def feed(self, record: Input) -> Said:
        """Apply one input and seal."""
        self.log.append(record)
        self.offset = record.offset + 1
        self.core.apply(record)
        return self.seal()

    def seal(self) -> Said:
        """Take the batch."""
        batch = self.core.seal()
        self.loader_rows.append(batch)
        said = Said()
        said.add(batch.outputs)
        for count in self.core.drain_counts():
            key = (count.metric, count.labels)
            self.counted[key] = self.counted.get(key, 0) + count.amount
        return said

    def hear(self, report: HostReport, **fields: Any) -> Said:
        """An agent's report arrives now; `fields` replace some of its own."""
        stamped = {"observed_at": self.now, "sent_at": self.now, **fields}
        values = {name: getattr(report, name) for name in report.__struct_fields__} | stamped
        return self.feed(inputs_of(HostReport(**values), offset=self.offset, at=self.now))

    def hear_all(self, reports: list[HostReport]) -> Said:
        """Several reports, one after the other; what the last one led to."""
        said = Said()
        for report in reports:
            said = self.hear(report)
        return said

    def tick(self, times: int = 1, *, owner: bytes = OWNER, beat: tuple[Agent, ...] = ()) -> Said:
        """So many seconds; agents in `beat` send a heartbeat every five. Everything said meanwhile."""
        said = Said()
        for index in range(times):
            self.now += SECOND_NS
            self._merge(
                said, self.feed(tick_input(self.core.expected_tick, offset=self.offset, at=self.now, owner=owner))
            )
            if index % 5 == 0:
                for agent in beat:
                    self._merge(said, self.hear(agent.heartbeat()))
        return said

    def started(self, agent: Agent) -> Said:
        """The agent's first snapshot, after the extra time of a start is over."""
        if self.core.expected_tick <= 32:
            self.tick(32)
        return self.hear_all(agent.snapshot())

    def reload(self) -> HostsCore:
        """The core as the rows written so far leave it."""
        loader = HostsLoader(self.config, PARTITION)
        for batch in self.loader_rows:
            for row in batch.rows:
                loader.add(*row)
        self.core = loader.finish()
        return self.core

    @staticmethod
    def _merge(into: Said, said: Said) -> None:
        into.reports += said.reports
        into.batches += said.batches
        into.changes += said.changes
        into.states += said.states
        into.requests += said.requests
        into.dead += said.dead
