"""Hosts stage and vms stage in one process, agents that tell the truth: whatever happens to hosts, agents and stages,
no VM is said to be down while it runs, and in the end the table is the truth."""

from typing import NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.change import Cause
from schemas.codec import encode, header_of
from schemas.facets.identity import Identity
from schemas.facets.run import Migration, Run
from schemas.ids import VmId, key_of, partition_of, uuid_text
from schemas.report import HostReport
from schemas.status import ALIVE, ExitReason, ExitStatus, GoneReason, Status
from schemas.tick import TICK_KEY, Tick, sign_tick
from streams.hosts.core import HostsCore
from streams.hosts.loader import HostsLoader
from streams.runtime.stage import Batch, Input, Output
from streams.vms.app import VmsStage
from streams.vms.core import VmsCore
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
VMS = [vm(number) for number in range(4)]
HOSTS = 3
ENDS = ["down", "migrated", "error", "absent"]
ORDERS = ["SSDD", "SDSD", "DSSD", "SDDS", "DSDS", "DDSS"]


class Machine:
    """A host, its agent, and whether it is heard."""

    def __init__(self, index: int) -> None:
        self.agent = Agent(host_at(0, index))
        self.partition = index
        self.heard = True
        self.processes = 0


class Line:
    """Three partitions of each stage, one host each, and the truth about every VM."""

    def __init__(self) -> None:
        self.config = make_config()
        self.hosts = [HostsLoader(self.config, number).finish() for number in range(PARTITIONS)]
        self.hosts_rows: list[list[Batch]] = [[] for _ in range(PARTITIONS)]
        self.hosts_log: list[list[Input]] = [[] for _ in range(PARTITIONS)]
        stage = VmsStage(PARTITIONS, {})
        self.vms: list[VmsCore] = [stage.loader(number).finish() for number in range(PARTITIONS)]
        self.vms_log = [0] * PARTITIONS
        self.now = START_NS
        self.machines = [Machine(index) for index in range(HOSTS)]
        self.where: dict[VmId, int | None] = dict.fromkeys(VMS)
        self.wrong: list[str] = []
        self.conflicts = 0
        self.asked: set[bytes] = set()
        self.tick(35)
        for machine in self.machines:
            self.snapshot(machine)
        self.tick(12)

    def feed(self, partition: int, key: bytes, value: bytes, schema: bytes) -> None:
        self.now += 1_000_000
        log = self.hosts_log[partition]
        record = Input(partition, len(log), self.now, key, value, schema)
        log.append(record)
        self.hosts[partition].apply(record)
        batch = self.hosts[partition].seal()
        self.hosts_rows[partition].append(batch)
        self.forward(batch.outputs)

    def forward(self, outputs: list[Output]) -> None:
        """What the hosts stage said goes to the vms stage and, as requests, to the agents."""
        for out in outputs:
            if out.topic == "vm.observations" and out.value is not None:
                core, offset = self.vms[out.partition], self.vms_log[out.partition]
                self.vms_log[out.partition] += 1
                schema = dict(out.headers)["schema"]
                core.apply(Input(out.partition, offset, self.now, out.key, out.value, schema))
                self.judge(core.seal().outputs)
            elif out.topic == "resync.requests" and out.key is not None:
                self.asked.add(out.key)

    def judge(self, outputs: list[Output]) -> None:
        """No VM may be called down while it runs."""
        for change in changes_in(outputs):
            # An end that was not heard, and a start elsewhere, look like two copies.
            self.conflicts += change.cause is Cause.CONFLICT and all(machine.heard for machine in self.machines)
            known = {uuid_text(one): where for one, where in self.where.items()}
            if change.status not in ALIVE and change.cause is not Cause.CREATED and known[change.vm_id] is not None:
                self.wrong.append(f"{change.cause} {change.status} {change.exit} while it runs")

    def send(self, machine: Machine, report: HostReport) -> None:
        """A report reaches the log if the host is heard."""
        stamped = {"observed_at": self.now, "sent_at": self.now}
        values = {name: getattr(report, name) for name in report.__struct_fields__} | stamped
        if machine.heard:
            key = key_of(machine.agent.host_id)
            self.feed(machine.partition, key, encode(HostReport(**values)), header_of(HostReport))

    def snapshot(self, machine: Machine) -> None:
        for report in machine.agent.snapshot():
            self.send(machine, report)

    def tick(self, seconds: int) -> None:
        for second in range(seconds):
            self.now += SECOND_NS
            for number, core in enumerate(self.hosts):
                n = core.expected_tick
                tick = Tick(n=n, owner=OWNER, rules_version=1, mac=sign_tick(SECRET, TOPIC_ID, number, n))
                self.feed(number, TICK_KEY, encode(tick), header_of(Tick))
            for machine in self.machines:
                if second % 5 == 0:
                    self.send(machine, machine.agent.heartbeat())
                if machine.heard and key_of(machine.agent.host_id) in self.asked:
                    self.asked.discard(key_of(machine.agent.host_id))
                    self.snapshot(machine)

    def say(self, index: int, vm_id: VmId, run: Run) -> None:
        """The host's agent tells what the VM does."""
        machine = self.machines[index]
        facets = {"run": encode(run)}
        if vm_id not in machine.agent.vms:
            facets["identity"] = encode(Identity(name=vm_id.hex(), vcpus=index + 1))
        self.send(machine, machine.agent.change({vm_id: facets}))

    def process(self, index: int, *, new: bool = False) -> str:
        machine = self.machines[index]
        machine.processes += new
        return f"{index}.{machine.processes}"

    def start(self, index: int, vm_id: VmId) -> None:
        """Only where somebody hears it: of what nobody heard, nobody can know."""
        if self.where[vm_id] is None and self.machines[index].heard:
            self.where[vm_id] = index
            self.say(index, vm_id, Run(status=Status.UP, process_id=self.process(index, new=True)))

    def stop(self, vm_id: VmId, *, error: bool) -> None:
        index = self.where[vm_id]
        if index is not None:
            self.where[vm_id] = None
            status, reason = (
                (ExitStatus.ERROR, ExitReason.QEMU_DIED) if error else (ExitStatus.NORMAL, ExitReason.GUEST_SHUTDOWN)
            )
            self.say(index, vm_id, Run(status=Status.DOWN, exit_status=status, exit_reason=reason))

    def leave(self, vm_id: VmId) -> None:
        """Undefine a VM that does not run, wherever it is defined."""
        if self.where[vm_id] is None:
            for machine in self.machines:
                if vm_id in machine.agent.vms:
                    self.send(machine, machine.agent.change(gone={vm_id: GoneReason.UNDEFINED}))

    def migrate(self, vm_id: VmId, to: int, order: str, gap: int, end: str) -> None:
        source = self.where[vm_id]
        if source is None or source == to or not self.machines[to].heard:
            return
        peer = uuid_text(self.machines[to].agent.host_id)
        process = self.process(to, new=True)
        leaving = Migration(direction="out", peer=peer, phase="pre_copy")
        words = {"S": iter((0, 1)), "D": iter((0, 1))}
        for side in order:
            if side == "S" and next(words["S"]) == 0:
                self.say(source, vm_id, Run(status=Status.MIGRATING_FROM, migration=leaving))
            elif side == "S":
                self.end_source(source, vm_id, end)
            elif next(words["D"]) == 0:
                self.say(to, vm_id, Run(status=Status.MIGRATING_TO, process_id=process))
            else:
                self.where[vm_id] = to
                self.say(to, vm_id, Run(status=Status.UP, reason="migrated", process_id=process))
            self.tick(gap)

    def end_source(self, index: int, vm_id: VmId, end: str) -> None:
        """The source's last word, in all the forms that agents find."""
        if end == "down":
            migrated = Run(status=Status.DOWN, exit_status=ExitStatus.NORMAL, exit_reason=ExitReason.MIGRATED)
            self.say(index, vm_id, migrated)
        elif end == "error":
            self.say(
                index, vm_id, Run(status=Status.DOWN, exit_status=ExitStatus.ERROR, exit_reason=ExitReason.QEMU_DIED)
            )
        else:
            machine = self.machines[index]
            self.send(machine, machine.agent.change(gone={vm_id: GoneReason(end)}))

    def restart_agent(self, index: int, *, boot: bool) -> None:
        machine = self.machines[index]
        machine.agent = machine.agent.restarted(boot=boot)
        if boot:
            self.where = {one: None if where == index else where for one, where in self.where.items()}
            machine.agent.vms.clear()
        self.snapshot(machine)

    def crash_hosts_stage(self, index: int, inputs: int) -> None:
        """The worker loses its last batches: the same inputs are applied again, and said again."""
        kept = max(0, len(self.hosts_rows[index]) - inputs)
        loader = HostsLoader(self.config, index)
        for batch in self.hosts_rows[index][:kept]:
            for row in batch.rows:
                loader.add(*row)
        core: HostsCore = loader.finish()
        self.hosts[index] = core
        del self.hosts_rows[index][kept:]
        for record in self.hosts_log[index][core.applied + 1 :]:
            core.apply(record)
        batch = core.seal()
        self.hosts_rows[index].append(batch)
        self.forward(batch.outputs)


class Step(NamedTuple):
    """Something happens."""

    kind: str
    host: int
    vm: int
    order: str
    number: int
    flag: bool
    end: str


kinds = ["start", "start", "stop", "migrate", "migrate", "leave", "restart", "boot", "silence", "crash", "wait"]
steps = st.builds(
    Step,
    st.sampled_from(kinds),
    st.integers(0, HOSTS - 1),
    st.integers(0, len(VMS) - 1),
    st.sampled_from(ORDERS),
    st.sampled_from([0, 1, 5, 40]),
    st.booleans(),
    st.sampled_from(ENDS),
)


def take(line: Line, step: Step) -> None:
    """Let it happen."""
    vm_id = VMS[step.vm]
    match step.kind:
        case "start":
            line.start(step.host, vm_id)
        case "stop":
            line.stop(vm_id, error=step.flag)
        case "migrate":
            line.migrate(vm_id, step.host, step.order, min(step.number, 20), step.end)
        case "leave":
            line.leave(vm_id)
        case "restart" | "boot":
            line.restart_agent(step.host, boot=step.kind == "boot")
        case "silence":
            line.machines[step.host].heard = step.flag
        case "crash":
            line.crash_hosts_stage(step.host, 1 + step.number)
        case _:
            line.tick(step.number)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, min_size=3, max_size=25))
def test_the_table_is_the_truth_in_the_end(history: list[Step]) -> None:
    line = Line()
    for step in history:
        take(line, step)
    for machine in line.machines:
        machine.heard = True
    line.tick(140)
    assert line.wrong == []
    assert line.conflicts == 0
    for vm_id, where in line.where.items():
        state = line.vms[partition_of(key_of(vm_id), PARTITIONS)].state
        row = state.vms.get(vm_id)
        if where is None:
            assert row is None or not row.alive
        else:
            assert row is not None
            assert (row.status, row.owner) == (Status.UP, line.machines[where].agent.host_id)
        assert row is None or row.shown == ()
