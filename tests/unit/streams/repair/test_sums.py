"""Hourly sums of the hosts stage against the claims of the vms stage: no false alarm, all damage found and healed."""

from collections.abc import Callable

import msgspec
import pytest

from schemas.codec import decode, encode
from schemas.facets import FACET_LIMIT_BYTES
from schemas.host_rows import VmRow
from schemas.ids import VmId, key_of, partition_of, uuid_text
from schemas.status import Doubt, GoneReason, Status
from schemas.vm_state import VmHead
from streams.runtime.stage import Output, Row
from streams.vms.rows import VmsHostRow
from tests.unit.streams.hosts.world import PARTITIONS, host_at, vm
from tests.unit.streams.repair.line import SUM_TICKS, Line, Rows, running

VM = vm(100)
"""Of the second host."""
EQUAL = ("facet_sums", ("equal",))
UNEQUAL = ("facet_sums", ("unequal",))
FLAGGED = ("facet_sums", ("flagged",))


@pytest.fixture
def line() -> Line:
    return Line()


def head_of(table: Rows, vm_id: VmId) -> VmHead:
    row = table[key_of(vm_id)]
    assert row.value is not None
    return decode(VmHead, row.value, row.schema)


def put_head(table: Rows, head: VmHead) -> None:
    key = head.vm_id.encode()
    table[key] = Row(key, encode(head), b"VmHead/1.0")


def test_each_host_is_summed_once_in_a_period_and_agrees_in_every_partition(line: Line) -> None:
    line.counted.clear()

    line.tick(SUM_TICKS)

    assert line.counts_of("facet_sums") == {EQUAL: len(line.agents) * PARTITIONS}
    assert line.requests == []


def test_sums_write_no_row_but_the_partition(line: Line) -> None:
    line.tick(SUM_TICKS)
    before = [dict(table) for table in line.vms_table]

    line.tick(SUM_TICKS)

    for table, known in zip(line.vms_table, before, strict=True):
        assert {key for key, row in table.items() if known.get(key) != row} == {b"#partition"}


def test_what_is_under_way_makes_no_difference(line: Line) -> None:
    """Reports, snapshots and sums in every order within the messages; the sums keep their place in the log."""
    held: list[Output] = []

    def late(outputs: list[Output]) -> list[Output]:
        held.extend(outputs)
        if len(held) < 7:
            return []
        ready, held[:] = list(held), []
        return ready

    line.between = late
    for second in range(2 * SUM_TICKS):
        agent = line.agents[second % 3]
        line.send(agent, agent.change({vm(100 * (second % 3) + 1): {"run": running(f"p{second}")}}))
        if second % 20 == 0:
            line.send_all(agent, agent.snapshot(3))
        line.tick()

    assert set(line.counts_of("facet_sums")) == {EQUAL}
    assert line.requests == []


def test_a_facet_that_a_new_agent_no_longer_says_is_no_difference(line: Line) -> None:
    agent = line.agents[1].restarted()
    line.agents[1] = agent
    said = agent.vms[VM].pop("identity")

    line.send_all(agent, agent.snapshot())
    line.tick(SUM_TICKS)
    line.send(agent, agent.change({VM: {"identity": said}}))
    line.tick(SUM_TICKS)

    assert set(line.counts_of("facet_sums")) == {EQUAL}
    assert line.requests == []
    assert line.disagreements() == []


@pytest.mark.parametrize("bad", [bytes(FACET_LIMIT_BYTES + 1), b"\xc1"], ids=["too large", "malformed"])
def test_a_facet_nobody_can_use_is_no_difference(line: Line, bad: bytes) -> None:
    agent = line.agents[1]

    line.send(agent, agent.change({VM: {"run": bad, "later": b"x"}}))
    line.tick(2 * SUM_TICKS)

    assert set(line.counts_of("facet_sums")) == {EQUAL}
    assert line.dead != []


def test_restarts_of_either_stage_make_no_difference(line: Line) -> None:
    for number in range(PARTITIONS):
        line.tick(SUM_TICKS // 2)
        line.reload_hosts(number)
        line.reload_vms(number)
    line.tick(SUM_TICKS)

    assert set(line.counts_of("facet_sums")) == {EQUAL}
    assert line.requests == []


def test_messages_sent_again_by_a_restarted_hosts_stage_make_no_difference(line: Line) -> None:
    """The table of the hosts stage is older than what it had sent: the inputs come again, in other batches."""
    number = 1
    agent = line.agents[number]
    partition = line.partition_of(agent)
    old = dict(line.hosts_table[partition])
    begin = len(line.hosts_log[partition])
    for second in range(SUM_TICKS):
        line.send(agent, agent.change({VM: {"run": running(f"p{second}")}}))
        line.tick()
    changes = len(line.changes)

    line.hosts_table[partition] = old
    line.reload_hosts(partition)
    for record in line.hosts_log[partition][begin:]:
        line.hosts[partition].apply(record)
    line.seal_hosts(partition)

    assert UNEQUAL not in line.counted
    assert len(line.changes) == changes
    assert ("observation_gaps", ()) not in line.counted


def lose_head(table: Rows, vm_id: VmId) -> None:
    for key in [key for key in table if key.startswith(key_of(vm_id))]:
        del table[key]


def change_mark(table: Rows, vm_id: VmId) -> None:
    head = head_of(table, vm_id)
    claim = head.claims[0]
    mark = msgspec.structs.replace(claim.facets["identity"], raw=1)
    claim = msgspec.structs.replace(claim, facets={**claim.facets, "identity": mark})
    put_head(table, msgspec.structs.replace(head, claims=[claim]))


def lose_a_facet_of_the_head(table: Rows, vm_id: VmId) -> None:
    head = head_of(table, vm_id)
    claim = head.claims[0]
    claim = msgspec.structs.replace(claim, facets={"run": claim.facets["run"]})
    put_head(table, msgspec.structs.replace(head, claims=[claim], facets={"run": head.facets["run"]}))


def lose_facet_row(table: Rows, vm_id: VmId) -> None:
    (key,) = [key for key in table if key.startswith(key_of(vm_id)) and key.endswith(b"/identity")]
    del table[key]


def add_head(table: Rows, vm_id: VmId) -> None:
    head = head_of(table, vm_id)
    other = next(vm(n) for n in range(9000, 9999) if _home(vm(n)) == _home(vm_id))
    put_head(table, msgspec.structs.replace(head, vm_id=uuid_text(other)))
    for key, row in list(table.items()):
        if key.startswith(key_of(vm_id) + b"/"):
            table[key_of(other) + key[36:]] = row._replace(key=key_of(other) + key[36:])


def lose_host_row(table: Rows, vm_id: VmId) -> None:
    del table[b"#host/" + key_of(host_at(0, 1))]


def end_claim(table: Rows, vm_id: VmId) -> None:
    head = head_of(table, vm_id)
    put_head(table, msgspec.structs.replace(head, claims=[msgspec.structs.replace(head.claims[0], ended=True)]))


def _home(vm_id: VmId) -> int:
    return partition_of(key_of(vm_id), PARTITIONS)


@pytest.mark.parametrize(
    "damage",
    [lose_head, change_mark, lose_a_facet_of_the_head, lose_facet_row, add_head, lose_host_row, end_claim],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_table_of_the_vms_stage_is_found_and_healed(line: Line, damage: Callable[[Rows, VmId], None]) -> None:
    partition = line.home_of(VM)
    damage(line.vms_table[partition], VM)
    line.reload_vms(partition)

    line.tick(SUM_TICKS)

    assert {one.host_id for one in line.requests} <= {line.agents[1].host_id}
    assert all(one.force for one in line.requests)
    assert line.disagreements() == []
    asked = len(line.requests)
    line.counted.clear()
    line.tick(2 * SUM_TICKS)
    assert set(line.counts_of("facet_sums")) == {EQUAL}
    assert len(line.requests) == asked


def change_marks(table: Rows, key: bytes) -> None:
    row = table[key]
    assert row.value is not None
    vm_row = decode(VmRow, row.value, row.schema)
    damaged = msgspec.structs.replace(vm_row, marks=b"\1" * len(vm_row.marks))
    table[key] = row._replace(value=encode(damaged))


def lose_vm_row(table: Rows, key: bytes) -> None:
    del table[key]


def add_vm_row(table: Rows, key: bytes) -> None:
    other = key[:37] + key_of(vm(777))
    # Behind a partition row a batch counts: it has to stand before it.
    rest = dict(table)
    table.clear()
    table[other] = rest[key]._replace(key=other)
    table.update(rest)


@pytest.mark.parametrize("damage", [change_marks, lose_vm_row, add_vm_row], ids=lambda damage: damage.__name__)
def test_a_damaged_table_of_the_hosts_stage_is_found_and_healed(
    line: Line, damage: Callable[[Rows, bytes], None]
) -> None:
    agent = line.agents[1]
    partition = line.partition_of(agent)
    damage(line.hosts_table[partition], key_of(agent.host_id) + b"/" + key_of(VM))
    line.reload_hosts(partition)

    line.tick(2 * SUM_TICKS)

    assert line.requests[0].host_id == agent.host_id
    line.counted.clear()
    line.tick(SUM_TICKS)
    assert set(line.counts_of("facet_sums")) == {EQUAL}
    assert line.disagreements() == []


def test_three_unequal_sums_in_a_row_are_flagged_and_nobody_is_asked_any_more(line: Line) -> None:
    """Nothing answers: what is asked for never heals."""
    partition = line.home_of(VM)
    change_mark(line.vms_table[partition], VM)
    line.reload_vms(partition)
    line.answering = False

    line.tick(3 * SUM_TICKS)
    asked = len(line.requests)
    line.tick(20 * SUM_TICKS)

    assert len(line.requests) == asked
    assert line.counted[UNEQUAL] == 2
    assert line.counted[FLAGGED] > 10
    row = line.vms_table[partition][b"#host/" + key_of(line.agents[1].host_id)]
    assert row.value is not None
    assert decode(VmsHostRow, row.value, row.schema).unequal == 3

    line.answering = True
    line.tick(2)  # what was asked before is answered late
    line.counted.clear()
    line.tick(SUM_TICKS)
    assert FLAGGED not in line.counted


def test_requests_are_repeated_with_back_off_until_a_whole_snapshot_answers(line: Line) -> None:
    partition = line.home_of(VM)
    lose_facet_row(line.vms_table[partition], VM)
    line.answering = False
    line.reload_vms(partition)

    line.tick(200)
    ids = [one.request_id for one in line.requests]
    assert 3 <= len(ids) <= 5
    assert len(set(ids)) == len(ids)

    line.answering = True
    line.tick(300)
    assert len(line.requests) <= len(ids) + 1
    assert line.disagreements() == []


def test_an_unasked_snapshot_answers_nothing(line: Line) -> None:
    """A forced one for somebody else may have begun before the evidence was lost."""
    partition = line.home_of(VM)
    lose_facet_row(line.vms_table[partition], VM)
    line.answering = False
    line.reload_vms(partition)
    line.tick()
    agent = line.agents[1]

    line.send_all(agent, agent.snapshot(force=True))

    assert line.vms[partition].state.hosts[agent.host_id].repair is not None


def test_a_silent_host_is_not_summed_and_not_asked(line: Line) -> None:
    agent = line.agents.pop(1)
    partition = line.home_of(VM)
    line.tick(SUM_TICKS)
    lose_facet_row(line.vms_table[partition], VM)
    line.reload_vms(partition)
    line.counted.clear()

    line.tick(2 * SUM_TICKS)

    assert line.requests == []
    assert line.counts_of("facet_sums") == {EQUAL: 4 * PARTITIONS}

    line.agents.insert(1, agent)
    line.tick(20)
    assert {one.host_id for one in line.requests} == {agent.host_id}
    assert line.disagreements() == []


def test_forced_repair_mends_a_value_whose_fingerprint_looks_right(line: Line) -> None:
    partition = line.home_of(VM)
    table = line.vms_table[partition]
    (key,) = [key for key in table if key.startswith(key_of(VM)) and key.endswith(b"/identity")]
    row = table[key]
    assert row.value is not None
    table[key] = row._replace(value=row.value.replace(b"vm0", b"vmX"))
    line.reload_vms(partition)
    assert line.disagreements() != []
    agent = line.agents[1]

    line.send_all(agent, agent.snapshot(force=True))

    assert line.disagreements() == []
    mended = line.vms_table[partition][key].value
    assert mended is not None
    assert b"vmX" not in mended


def test_a_vm_that_left_meanwhile_is_no_difference(line: Line) -> None:
    agent = line.agents[1]
    line.send(agent, agent.change({VM: {"run": running("p", Status.DOWN)}}))
    line.send(agent, agent.change(gone={VM: GoneReason.UNDEFINED}))
    line.tick(2 * SUM_TICKS)

    assert set(line.counts_of("facet_sums")) == {EQUAL}
    assert line.requests == []


def test_doubt_of_a_gap_ends_with_the_answer(line: Line) -> None:
    partition = line.home_of(VM)
    line.answering = False
    core = line.vms[partition]
    core.gap(core.applied + 1, core.applied + 3)
    line.vms_log[partition] += line.vms_log[partition][:2]
    line.seal_vms(partition)
    assert line.changes[-1].availability.reasons == [Doubt.REBUILDING]
    assert not core.state.hosts[line.agents[1].host_id].confirmed

    line.answering = True
    line.tick(2)

    state = core.state
    assert all(host.confirmed and not host.reasons and host.repair is None for host in state.hosts.values())
    assert {one.host_id for one in line.requests} == {agent.host_id for agent in line.agents}
    assert all(not one.shown for one in state.vms.values())
