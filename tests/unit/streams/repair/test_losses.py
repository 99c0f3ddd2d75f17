"""Messages lost, repeated, swapped, cut or unreadable, before either stage: asked for within two heartbeats, healed,
counted, and nobody else is touched."""

from collections.abc import Callable

import msgspec
import pytest

from schemas.change import Cause
from schemas.codec import decode, encode, header_of
from schemas.ids import BootId, HostId, key_of, uuid_text
from schemas.observation import ObservationBatch
from schemas.report import HostReport
from schemas.resync import Asker
from streams.runtime.stage import Output
from tests.unit.streams.hosts.world import PARTITIONS, Agent, vm
from tests.unit.streams.repair.line import HEARTBEAT_SECONDS, Line, running

TWO_HEARTBEATS = 2 * HEARTBEAT_SECONDS
VM = vm(101)


@pytest.fixture
def line() -> Line:
    return Line()


def written(line: Line, agent: Agent) -> list[HostReport]:
    """Reports that were never written into the log yet: a change of each of three VMs, with whole new values."""
    return [agent.change({vm(101 + index): {"run": running(f"new{index}")}}) for index in range(3)]


def lose(line: Line, agent: Agent, reports: list[HostReport]) -> None:
    line.send_all(agent, [reports[0], reports[2]])


def repeat(line: Line, agent: Agent, reports: list[HostReport]) -> None:
    line.send_all(agent, [reports[0], reports[1], reports[0], reports[1], reports[2], reports[2]])


def swap(line: Line, agent: Agent, reports: list[HostReport]) -> None:
    line.send_all(agent, [reports[0], reports[2], reports[1]])


def cut(line: Line, agent: Agent, reports: list[HostReport]) -> None:
    line.send(agent, reports[0])
    _raw(line, agent, encode(reports[1])[:-9])
    line.send(agent, reports[2])


def oversize(line: Line, agent: Agent, reports: list[HostReport]) -> None:
    line.send(agent, reports[0])
    _raw(line, agent, encode(reports[1]) + bytes(1024 * 1024))
    line.send(agent, reports[2])


def garble(line: Line, agent: Agent, reports: list[HostReport]) -> None:
    line.send(agent, reports[0])
    _raw(line, agent, b"\xc1" * 20)
    line.send(agent, reports[2])


def _raw(line: Line, agent: Agent, value: bytes) -> None:
    line.feed_hosts(line.partition_of(agent), key_of(agent.host_id), value, header_of(HostReport))


@pytest.mark.parametrize(
    ("fault", "metric"),
    [
        (lose, ("sequence_gaps", ())),
        (swap, ("sequence_gaps", ())),
        (cut, ("dead_letters_records", ("malformed",))),
        (oversize, ("dead_letters_records", ("malformed",))),
        (garble, ("dead_letters_records", ("malformed",))),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fault_in_the_reports_of_one_host(
    line: Line, fault: Callable[[Line, Agent, list[HostReport]], None], metric: tuple[str, tuple[str, ...]]
) -> None:
    agent = line.agents[1]
    line.tick(TWO_HEARTBEATS)
    others = len(line.changes)

    fault(line, agent, written(line, agent))
    line.tick(TWO_HEARTBEATS)

    assert {(one.host_id, one.asker) for one in line.requests} == {(agent.host_id, Asker.HOSTS)}
    assert line.counted[metric] == 1
    assert line.disagreements() == []
    assert {one.host_id for one in line.changes[others:]} == {uuid_text(agent.host_id)}


def test_repeated_reports_are_dropped_and_counted(line: Line) -> None:
    agent = line.agents[1]

    repeat(line, agent, written(line, agent))
    line.tick(TWO_HEARTBEATS)

    assert line.counted["repeats_records", ()] == 3
    assert line.requests == []
    assert line.disagreements() == []


def batch_of(output: Output) -> ObservationBatch:
    assert output.value is not None
    return decode(ObservationBatch, output.value, dict(output.headers)["schema"])


class Between:
    """What happens to the messages to one vms partition of one hosts partition, from the first with reports on."""

    def __init__(self, target: int, source: int, fate: Callable[[list[Output]], list[Output]], count: int) -> None:
        self.target, self.source, self.fate, self.count = target, source, fate, count
        self.held: list[Output] = []
        self.over = False

    def __call__(self, outputs: list[Output]) -> list[Output]:
        passed = []
        for out in outputs:
            batch = batch_of(out)
            ours = out.partition == self.target and batch.source == self.source
            if self.over or not ours or (not self.held and not batch.reports):
                passed.append(out)
                continue
            self.held.append(out)
            if len(self.held) == self.count:
                self.over = True
                passed += self.fate(self.held)
        return passed


def garbled(held: list[Output]) -> list[Output]:
    return [held[0]._replace(value=b"\xc1"), *held[1:]]


def truncated(held: list[Output]) -> list[Output]:
    value = held[0].value
    assert value is not None
    return [held[0]._replace(value=value[:-3]), *held[1:]]


@pytest.mark.parametrize(
    ("fate", "asks"),
    [
        (lambda held: held[1:], True),
        (lambda held: [], True),
        (lambda held: held[::-1], True),
        (garbled, True),
        (truncated, True),
        (lambda held: [*held, *held], False),
        (lambda held: [one for one in held for _ in range(2)], False),
    ],
    ids=["lost", "all lost", "swapped", "garbled", "truncated", "repeated", "each repeated"],
)
def test_a_fault_between_the_stages(line: Line, fate: Callable[[list[Output]], list[Output]], asks: bool) -> None:
    agent = line.agents[1]
    target, source = line.home_of(VM), line.partition_of(agent)
    line.tick(TWO_HEARTBEATS)
    known = len(line.changes)
    line.between = Between(target, source, fate, 2)

    line.send(agent, agent.change({VM: {"run": running("new")}}))
    line.send(agent, agent.change({VM: {"identity": b"\x81\xa4name\xa3new"}}))
    line.tick(TWO_HEARTBEATS)

    assert {one.host_id for one in line.requests} == ({agent.host_id} if asks else set())
    assert all(one.force and one.asker is Asker.VMS for one in line.requests)
    assert (line.counted.get(("observation_gaps", ()), 0) > 0) is asks
    assert line.disagreements() == []
    touched = {one.host_id for one in line.changes[known:]}
    assert touched == {uuid_text(agent.host_id)}
    state = line.vms[target].state
    assert not any(one.shown for one in state.vms.values())
    assert all(host.confirmed for host in state.hosts.values())


def test_junk_of_somebody_else_asks_nobody(line: Line) -> None:
    for partition in range(PARTITIONS):
        line.feed_vms(partition, None, b"junk", b"ObservationBatch/1.1")
    line.tick(TWO_HEARTBEATS)

    assert line.counted["dead_letters_records", ("malformed_record",)] == PARTITIONS
    assert line.requests == []


def test_batches_of_the_first_version_prove_nothing(line: Line) -> None:
    def old(outputs: list[Output]) -> list[Output]:
        return [_as_1_0(one) for one in outputs][1:]

    line.between = old
    agent = line.agents[1]
    line.send(agent, agent.change({VM: {"run": running("new")}}))
    line.tick(TWO_HEARTBEATS)

    assert ("observation_gaps", ()) not in line.counted


def _as_1_0(output: Output) -> Output:
    batch = msgspec.structs.replace(batch_of(output), since=-2, until=-2)
    return output._replace(value=encode(batch))


def test_gap_of_the_hosts_stage_is_a_change_of_every_host_of_the_partition(line: Line) -> None:
    agent = line.agents[1]
    partition = line.partition_of(agent)
    core = line.hosts[partition]
    line.answering = False
    before = len(line.host_changes)

    for _ in range(2):  # the second one finds nobody confirmed any more
        core.gap(core.applied + 1, core.applied + 5)
        line.hosts_log[partition] += line.hosts_log[partition][:4]
        line.seal_hosts(partition)

    made = line.host_changes[before:]
    assert [(one.cause, one.confirmed) for one in made] == [(Cause.GAP, False)] * 2
    assert [one.version for one in made] == [made[0].version, made[0].version + 1]
    assert made[1].previous_digest == made[0].state_digest
    assert [(one.host_id, one.force, one.reason) for one in line.requests] == [(agent.host_id, True, "gap")]

    line.answering = True
    line.tick(TWO_HEARTBEATS)
    assert line.host_changes[-1].confirmed
    assert line.disagreements() == []


def test_many_hosts_are_asked_under_the_bucket(line: Line) -> None:
    """A gap of a partition with a thousand hosts: a burst, then two a second, and each of them in the end."""
    core = line.vms[0]
    state = core.state
    for number in range(500):
        state.host(HostId(number.to_bytes(16, "big")), 0, BootId(bytes(16)))
    core.gap(core.applied + 1, core.applied + 2)
    line.vms_log[0] += line.vms_log[0][:1]
    line.seal_vms(0)
    assert len(line.requests) == 20

    line.answering = False
    line.tick(25)
    assert len({one.host_id for one in line.requests}) <= 20 + 2 * 26
    line.tick(300)
    assert len({one.host_id for one in line.requests}) == 500 + len(line.agents)
