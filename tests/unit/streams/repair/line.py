"""Both stages in one process with agents that answer requests, and a log in between that can lose, repeat and swap."""

from collections.abc import Callable

from schemas.codec import decode, encode, header_of
from schemas.facets.identity import Identity
from schemas.facets.run import Run
from schemas.host_change import HostChange
from schemas.ids import HostId, RequestId, VmId, key_of, partition_of
from schemas.intent import INTENT_KEY, IntentCopy, signed
from schemas.report import HostReport
from schemas.resync import ResyncRequest
from schemas.status import Status
from schemas.tick import TICK_KEY, Tick, sign_tick
from schemas.vm_change import VmChange
from streams.hosts.core import HostsCore
from streams.hosts.loader import HostsLoader
from streams.hosts.policy import HostsPolicy
from streams.runtime.stage import Counts, Input, Output, Row
from streams.vms.app import VmsStage
from streams.vms.core import VmsCore
from streams.vms.facets import NAMES, value_of
from tests.unit.streams.hosts.world import (
    OWNER,
    PARTITIONS,
    SECRET,
    START_NS,
    TOPIC_ID,
    Agent,
    host_at,
    make_config,
    vm,
)
from tests.unit.streams.vms.scene import changes_in

SECOND_NS = 1_000_000_000
SUM_TICKS = 45
"""An hour, shortened."""
INTENT_SECRET = b"only the workers of the vms stage know it"
TOPIC_IDS = {"vm.observations": "aa", "vm.intents": "bb"}
HEARTBEAT_SECONDS = 5

Rows = dict[bytes, Row]
Counted = dict[tuple[str, tuple[str, ...]], int]


class Line:
    """Three partitions of each stage, one host in each with six VMs that run."""

    def __init__(self, vms_per_host: int = 6) -> None:
        self.config = make_config(HostsPolicy(sum_ticks=SUM_TICKS))
        self.stage = VmsStage(PARTITIONS, TOPIC_IDS, intent_secret=INTENT_SECRET)
        self.hosts: list[HostsCore] = [HostsLoader(self.config, number).finish() for number in range(PARTITIONS)]
        self.vms: list[VmsCore] = [self.stage.loader(number).finish() for number in range(PARTITIONS)]
        self.hosts_table: list[Rows] = [{} for _ in range(PARTITIONS)]
        self.vms_table: list[Rows] = [{} for _ in range(PARTITIONS)]
        self.hosts_log: list[list[Input]] = [[] for _ in range(PARTITIONS)]
        self.vms_log: list[list[Input]] = [[] for _ in range(PARTITIONS)]
        self.between: Callable[[list[Output]], list[Output]] = lambda outputs: outputs
        """What becomes of messages between the stages."""
        self.now = START_NS
        self.agents = [Agent(host_at(0, number)) for number in range(PARTITIONS)]
        self.open: dict[HostId, list[ResyncRequest]] = {}
        self.answering = True
        self.requests: list[ResyncRequest] = []
        self.changes: list[VmChange] = []
        self.host_changes: list[HostChange] = []
        self.dead: list[Output] = []
        self.counted: Counted = {}
        for number, agent in enumerate(self.agents):
            for index in range(vms_per_host):
                vm_id = vm(number * 100 + index)
                agent.vms[vm_id] = {"identity": encode(Identity(name=f"vm{index}")), "run": running(f"p{number}")}
        self.tick(35)
        for agent in self.agents:
            self.send_all(agent, agent.snapshot())
        self.tick(3)

    # The log of the hosts stage.

    def partition_of(self, agent: Agent) -> int:
        return partition_of(key_of(agent.host_id), PARTITIONS)

    def send(self, agent: Agent, report: HostReport) -> None:
        """A report comes into the log."""
        stamped = {"observed_at": self.now, "sent_at": self.now}
        values = {name: getattr(report, name) for name in report.__struct_fields__} | stamped
        self.feed_hosts(
            self.partition_of(agent), key_of(agent.host_id), encode(HostReport(**values)), header_of(HostReport)
        )

    def send_all(self, agent: Agent, reports: list[HostReport]) -> None:
        for report in reports:
            self.send(agent, report)

    def feed_hosts(self, partition: int, key: bytes, value: bytes, schema: bytes) -> None:
        """Any record comes into the log of the hosts stage."""
        self.now += 1_000_000
        log = self.hosts_log[partition]
        record = Input(partition, len(log), self.now, key, value, schema)
        log.append(record)
        self.hosts[partition].apply(record)
        self.seal_hosts(partition)

    def seal_hosts(self, partition: int) -> None:
        """The outputs go out, the rows are written."""
        batch = self.hosts[partition].seal()
        _write(self.hosts_table[partition], batch.rows)
        self._count(self.hosts[partition].drain_counts())
        self._forward(batch.outputs)

    def tick(self, seconds: int = 1) -> None:
        """Time passes: ticks everywhere, heartbeats every five seconds, asked snapshots."""
        for second in range(seconds):
            self.now += SECOND_NS
            for number, core in enumerate(self.hosts):
                n = core.expected_tick
                tick = Tick(n=n, owner=OWNER, rules_version=1, mac=sign_tick(SECRET, TOPIC_ID, number, n))
                self.feed_hosts(number, TICK_KEY, encode(tick), header_of(Tick))
            for agent in self.agents:
                if agent.seq and second % HEARTBEAT_SECONDS == 0:
                    self.send(agent, agent.heartbeat())
                self._answer(agent)

    def _answer(self, agent: Agent) -> None:
        asked = self.open.get(agent.host_id, [])
        if self.answering and asked:
            self.open[agent.host_id] = []
            answers = tuple(RequestId(one.request_id) for one in asked)
            self.send_all(agent, agent.snapshot(2, force=any(one.force for one in asked), answers=answers))

    # Between the stages, and behind them.

    def _forward(self, outputs: list[Output]) -> None:
        between = [out for out in outputs if out.topic == "vm.observations"]
        for out in self.between(between):
            assert out.value is not None
            self.feed_vms(out.partition, out.key, out.value, dict(out.headers)["schema"])
        self._note([out for out in outputs if out.topic != "vm.observations"])

    def feed_vms(self, partition: int, key: bytes | None, value: bytes, schema: bytes | None) -> None:
        """Any record comes into the log of the vms stage."""
        log = self.vms_log[partition]
        record = Input(partition, len(log), self.now, key, value, schema)
        log.append(record)
        self.vms[partition].apply(record)
        self.seal_vms(partition)

    def seal_vms(self, partition: int) -> None:
        batch = self.vms[partition].seal()
        _write(self.vms_table[partition], batch.rows)
        self._count(self.vms[partition].drain_counts())
        self._note(batch.outputs)

    def _note(self, outputs: list[Output]) -> None:
        self.changes += changes_in(outputs)
        for out in outputs:
            schema = dict(out.headers).get("schema")
            if out.topic == "resync.requests" and out.value is not None:
                request = decode(ResyncRequest, out.value, schema)
                self.requests.append(request)
                self.open.setdefault(request.host_id, []).append(request)
            elif out.topic == "host.changes" and out.value is not None:
                self.host_changes.append(decode(HostChange, out.value, schema))
            elif out.topic == "dead.letters":
                self.dead.append(out)

    def _count(self, counts: list[Counts]) -> None:
        for one in counts:
            key = (one.metric, one.labels)
            self.counted[key] = self.counted.get(key, 0) + one.amount

    # What is held.

    def reload_vms(self, partition: int) -> None:
        """The worker starts again from its table as it stands."""
        loader = self.stage.loader(partition)
        for row in self.vms_table[partition].values():
            loader.add(*row)
        self.vms[partition] = loader.finish()

    def reload_hosts(self, partition: int) -> None:
        loader = HostsLoader(self.config, partition)
        for row in self.hosts_table[partition].values():
            loader.add(*row)
        self.hosts[partition] = loader.finish()

    def home_of(self, vm_id: VmId) -> int:
        return partition_of(key_of(vm_id), PARTITIONS)

    def disagreements(self) -> list[str]:
        """Where the vms stage holds something else of a host than its agent."""
        found = []
        for agent in self.agents:
            held: dict[VmId, dict[str, bytes]] = {}
            for core in self.vms:
                host = core.state.hosts.get(agent.host_id)
                for vm_id in () if host is None else host.claims:
                    claim = core.state.vms[vm_id].claim_of(agent.host_id)
                    assert claim is not None
                    held[vm_id] = {
                        name: value_of(packed)
                        for name, packed in zip(NAMES, claim.facets, strict=True)
                        if packed is not None
                    }
            if held != agent.vms:
                found.append(f"{agent.host_id!r}: {held} instead of {agent.vms}")
        return found

    def counts_of(self, metric: str) -> Counted:
        return {key: amount for key, amount in self.counted.items() if key[0] == metric}

    def copy_of(self, partition: int, value: bytes, *, offset: int, previous: int | None = None, key: bytes) -> bytes:
        """A signed copy of an intent."""
        copy = IntentCopy(
            offset=offset,
            previous=offset - 1 if previous is None else previous,
            appended_at=self.now,
            key=key,
            schema=b"Intent/1.0",
            value=value,
            mac=b"",
        )
        return encode(signed(INTENT_SECRET, TOPIC_IDS["vm.intents"], partition, copy))

    def feed_copy(self, partition: int, value: bytes) -> None:
        self.feed_vms(partition, INTENT_KEY, value, header_of(IntentCopy))


def running(process: str, status: Status = Status.UP) -> bytes:
    """A run facet as an agent sends it."""
    return encode(Run(status=status, process_id=process))


def _write(table: Rows, rows: list[Row]) -> None:
    """The last row of each key, in the order in which they were last written, as compaction leaves them."""
    for row in rows:
        table.pop(row.key, None)
        if row.value is not None:
            table[row.key] = row
