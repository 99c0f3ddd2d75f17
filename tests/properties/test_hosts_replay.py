"""The hosts stage under any interleaving of reports and ticks: a crash at any row repeats, it never changes or loses.

Checks INV-1, INV-11 and INV-13 at the stage's border; faults A1, A2, A8, M1, M4, M5, M6.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import decode, header_of
from schemas.facets import FACET_LIMIT_BYTES
from schemas.host_rows import PARTITION_KEY, PartitionRow
from schemas.ids import key_of
from schemas.observation import ReportObservations
from schemas.report import Farewell, HostReport
from schemas.status import GoneReason
from streams.hosts.app import TOPICS
from streams.hosts.core import HostsCore
from streams.hosts.loader import HostsLoader
from streams.hosts.policy import SECOND_NS, HostsPolicy
from streams.runtime.stage import Batch, Input, Output
from tests.unit.streams.hosts.world import (
    PARTITION,
    START_NS,
    Agent,
    Said,
    host_at,
    inputs_of,
    make_config,
    tick_input,
    vm,
)

POLICY = HostsPolicy(
    grace_base_ticks=4,
    restart_extra_ticks=2,
    mass_hosts=2,
    mass_window_ticks=2,
    degraded_ticks=3,
    shown_ticks=4,
    ask_first_ticks=2,
    ask_most_ticks=8,
    retired_least=1,
    retired_most=2,
    retired_ns=20 * SECOND_NS,
    snapshot_ticks=5,
)
CONFIG = make_config(POLICY)
HOSTS = 4
DISCONNECTED = b"\x81\xb0source_connected\xc2"
CONNECTED = b"\x81\xb0source_connected\xc3"


@dataclass
class Script:
    """Turns drawn steps into the inputs of a partition; agents live in it, so that digests are right."""

    inputs: list[Input] = field(default_factory=list)
    now: int = START_NS
    tick: int = 1
    agents: list[Agent] = field(default_factory=lambda: [Agent(host_at(index)) for index in range(HOSTS)])
    ghosts: dict[int, Agent] = field(default_factory=dict)

    def put(self, report: HostReport, skew: int = 0) -> None:
        """The report arrives."""
        values = {name: getattr(report, name) for name in report.__struct_fields__}
        values |= {"observed_at": self.now - skew, "sent_at": self.now - skew}
        self.inputs.append(inputs_of(HostReport(**values), offset=len(self.inputs), at=self.now))

    def put_all(self, reports: list[HostReport]) -> None:
        """The reports arrive one after the other."""
        for report in reports:
            self.put(report)

    def put_tick(self, seconds: float, owner: int = 0) -> None:
        """A tick arrives so long after the last."""
        self.now += int(seconds * SECOND_NS)
        self.inputs.append(tick_input(self.tick, offset=len(self.inputs), at=self.now, owner=bytes([owner]) * 16))
        self.tick += seconds >= 0.9

    def take(self, step: str, index: int, value: int) -> None:
        """Play one step."""
        agent, one, data = self.agents[index], vm(value % 5), b"%d" % (value // 5)
        steps: dict[str, Callable[[], object]] = {
            "tick": lambda: self.put_tick(1),
            "tick early": lambda: self.put_tick(0.5),
            "tick late": lambda: self.put_tick(7),
            "tick of another": lambda: self.put_tick(1, owner=value),
            "heartbeat": lambda: self.put(agent.heartbeat()),
            "skewed": lambda: self.put(agent.heartbeat(), skew=9 * SECOND_NS),
            "change": lambda: self.put(agent.change({one: {"run": data, "guest": b"g"}})),
            "too large": lambda: self.put(agent.change({one: {"run": bytes(FACET_LIMIT_BYTES + 1)}})),
            "unknown": lambda: self.put(agent.change({one: {"later": data}}, host={"host_later": data})),
            "gone": lambda: self.put(agent.change(gone={one: GoneReason.MIGRATED})),
            "storage": lambda: self.put(agent.change(storage={"d": data})),
            "source away": lambda: self.put(agent.change(host={"host_reachability": DISCONNECTED})),
            "source back": lambda: self.put(agent.change(host={"host_reachability": CONNECTED})),
            "forget silently": lambda: agent.vms.pop(one, None),
            "lost": lambda: agent.change({one: {"console": data}}),
            "snapshot": lambda: self.put_all(agent.snapshot(1 + value % 3, force=value % 4 == 0)),
            "torn snapshot": lambda: self.put(agent.snapshot(2)[value % 2]),
            "farewell": lambda: self.put(agent.say(Farewell(reason="upgrade"))),
            "restart": lambda: self._restart(index, boot=value % 2 == 0),
            "ghost": lambda: self.put(self.ghosts.get(index, agent).heartbeat()),
            "again": lambda: self._again(value),
            "garbage": lambda: self.inputs.append(
                Input(PARTITION, len(self.inputs), self.now, key_of(agent.host_id), data, header_of(HostReport))
            ),
        }
        self.now += 1000
        steps[step]()

    def _restart(self, index: int, *, boot: bool) -> None:
        self.ghosts[index] = self.agents[index]
        self.agents[index] = self.agents[index].restarted(boot=boot)

    def _again(self, value: int) -> None:
        if self.inputs:
            old = self.inputs[value % len(self.inputs)]
            self.inputs.append(old._replace(offset=len(self.inputs), appended_at=self.now))


STEPS = (
    *("tick",) * 6,
    *("heartbeat",) * 4,
    *("change",) * 3,
    *("snapshot",) * 2,
    "tick early",
    "tick late",
    "tick of another",
    "skewed",
    "too large",
    "unknown",
    "gone",
    "storage",
    "source away",
    "source back",
    "forget silently",
    "lost",
    "torn snapshot",
    "farewell",
    "restart",
    "ghost",
    "again",
    "garbage",
)


@st.composite
def logs(draw: st.DrawFn) -> list[Input]:
    """Logs of some dozens of records."""
    script = Script()
    steps = st.tuples(st.sampled_from(STEPS), st.integers(0, HOSTS - 1), st.integers(0, 24), st.booleans())
    for step, index, value, ticks_after in draw(st.lists(steps, min_size=5, max_size=60)):
        script.take(step, index, value)
        if ticks_after:
            script.put_tick(1)
    return script.inputs


def run(core: HostsCore, inputs: list[Input], seals: list[int]) -> list[Batch]:
    """Apply everything after `core.applied`; seal after so many inputs each."""
    batches: list[Batch] = []
    rest, size = 0, iter(seals * len(inputs))
    for record in inputs:
        if record.offset <= core.applied:
            continue
        if rest == 0:
            rest = next(size)
        core.apply(record)
        rest -= 1
        if rest == 0:
            batches.append(core.seal())
    batches.append(core.seal())
    return batches


def load(batches: list[Batch], torn_rows: int) -> HostsCore:
    """The core after these batches, of the last of which only so many rows were written."""
    loader = HostsLoader(CONFIG, PARTITION)
    for batch in batches[:-1]:
        for row in batch.rows:
            loader.add(*row)
    for row in batches[-1].rows[:torn_rows]:
        loader.add(*row)
    return loader.finish()


def outputs_after(batches: list[Batch], applied: int) -> tuple[dict[int, list[ReportObservations]], list[Output]]:
    """Observations by partition, and other outputs in order, of inputs above this offset."""
    said = Said()
    others: list[Output] = []
    for batch in batches:
        said.add(batch.outputs)
        others += [output for output in batch.outputs if output.topic != TOPICS.observations]
    reports: dict[int, list[ReportObservations]] = {}
    for target, report in said.reports:
        if report.offset > applied:
            reports.setdefault(target, []).append(report)
    return reports, others


def table(batches: list[Batch]) -> dict[bytes, bytes | None]:
    """The table that these rows leave."""
    rows = {row.key: row.value for batch in batches for row in batch.rows}
    return {key: value for key, value in rows.items() if value is not None}


@given(log=logs(), seals=st.lists(st.integers(1, 9), min_size=1), data=st.data())
@settings(max_examples=300, deadline=None)
def test_torn_batch_replays_byte_for_byte(log: list[Input], seals: list[int], data: st.DataObject) -> None:
    first = run(HostsLoader(CONFIG, PARTITION).finish(), log, seals)
    at = data.draw(st.integers(0, len(first) - 1))
    torn_rows = data.draw(st.integers(0, len(first[at].rows)))
    complete = at + (0 < torn_rows == len(first[at].rows))

    core = load(first[: at + 1], torn_rows)

    second = run(core, log, data.draw(st.lists(st.integers(1, 9), min_size=1)))
    before, after = first[:complete], first[complete:]
    applied = decode_applied(before)
    expected = outputs_after(after, applied)
    assert outputs_after(second, applied) == expected
    assert table([*before, *second]) == table(first)


def decode_applied(batches: list[Batch]) -> int:
    """`applied` of the last partition row; -1 without one."""
    for batch in reversed(batches):
        for row in reversed(batch.rows):
            if row.key == PARTITION_KEY and row.value is not None:
                return decode(PartitionRow, row.value, row.schema).applied
    return -1


@given(log=logs())
@settings(max_examples=60, deadline=None)
def test_running_digest_equals_the_sum_over_the_rows(log: list[Input]) -> None:
    core = HostsLoader(CONFIG, PARTITION).finish()
    for record in log:
        core.apply(record)
        for host in core.hosts.values():
            held = (host.row.vm_count, host.row.digest)
            host.recompute()
            assert held == (host.row.vm_count, host.row.digest)


@given(log=logs(), beats=st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_fleet_that_agrees_and_is_steady_says_nothing(log: list[Input], beats: int) -> None:
    """Invariant I13: after snapshots of all, heartbeats and ticks reach neither vms partitions nor host.changes."""
    core = HostsLoader(CONFIG, PARTITION).finish()
    run(core, log, [50])
    script = Script(inputs=list(log), now=log[-1].appended_at, tick=core.expected_tick)
    script.agents = [Agent(host_at(index), epoch=1000, boot=1000) for index in range(HOSTS)]
    # Conflicts of the log end when one agent was alone for a grace and answered; flags go with their cause.
    for agent in script.agents:
        agent.host = {"host_reachability": CONNECTED}
        for index in range(5):
            agent.vms[vm(index)] = {"run": b"r"}
    settle(core, script)

    begin = len(script.inputs)
    for _ in range(beats):
        script.put_tick(1, owner=7)
        for agent in script.agents:
            script.put(agent.heartbeat())
    said = Said()
    for record in script.inputs[begin:]:
        core.apply(record)
        said.add(core.seal().outputs)

    assert (said.reports, said.changes, said.requests, said.dead) == ([], [], [], [])


def settle(core: HostsCore, script: Script) -> None:
    """Let the agents speak alone until they are confirmed and answered whatever was asked."""
    for _ in range(700):
        begin = len(script.inputs)
        script.put_tick(1, owner=7)
        for agent in script.agents:
            script.put(agent.heartbeat())
        said = Said()
        for record in script.inputs[begin:]:
            core.apply(record)
        said.add(core.seal().outputs)
        begin = len(script.inputs)
        for request in said.requests:
            agent = next(agent for agent in script.agents if agent.host_id == request.host_id)
            for part in agent.snapshot(force=request.force, answers=(request.request_id,)):
                script.put(part)
        for record in script.inputs[begin:]:
            core.apply(record)
        core.seal()
        rows = [host.row for host in core.hosts.values()]
        if all(row.confirmed and row.resync is None and not (row.flapping or row.skewed_reports) for row in rows):
            return
    raise AssertionError("the fleet did not settle")
