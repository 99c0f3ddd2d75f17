"""Gate, gone, inventory: design §4.2, §4.3, rules A4, A5, A7; scenarios 7, 14, 19; INV-9, INV-13."""

import pytest

from schemas.facets import FACET_LIMIT_BYTES
from schemas.ids import key_of, partition_of
from schemas.report import Changes, Gone, SnapshotPart, VmFacets
from schemas.status import GoneReason
from streams.hosts.gate import gate
from streams.hosts.state import NO_MARKS, VmMarks
from tests.unit.streams.hosts.world import PARTITIONS, Agent, World, host_at, vm

HUGE = bytes(FACET_LIMIT_BYTES + 1)


@pytest.fixture
def agent() -> Agent:
    agent = Agent(host_at(0))
    agent.vms = {vm(index): {"run": b"r", "guest": b"g%d" % index} for index in range(6)}
    return agent


@pytest.fixture
def world(agent: Agent) -> World:
    world = World()
    world.started(agent)
    return world


def test_equal_facets_end_at_the_gate(world: World, agent: Agent) -> None:
    same = {vm(0): {"run": b"r"}, vm(1): {"guest": b"g1"}}

    said = world.hear(agent.change(same))

    assert (said.reports, said.changes, said.requests) == ([], [], [])
    assert world.counted["equal_facets", ()] == 2


def test_only_the_facets_that_differ_travel_on(world: World, agent: Agent) -> None:
    said = world.hear(agent.change({vm(0): {"run": b"r", "guest": b"other", "jobs": b""}}))

    assert said.vms == {vm(0): ({"guest": b"other", "jobs": b""}, None)}
    assert said.requests == []


def test_observations_go_to_the_partition_of_the_vm(world: World, agent: Agent) -> None:
    said = world.hear(agent.change({vm_id: {"run": b"new"} for vm_id in agent.vms}))

    for target, report in said.reports:
        assert [partition_of(key_of(one.vm_id), PARTITIONS) for one in report.vms] == [target] * len(report.vms)
    assert len(said.vms) == 6


def test_force_snapshot_passes_the_gate_whole(world: World, agent: Agent) -> None:
    said = world.hear_all(agent.snapshot(force=True))

    assert said.vms == {vm_id: (facets, None) for vm_id, facets in agent.vms.items()}
    assert all(report.force for _, report in said.reports)
    assert said.changes == []


def test_stable_snapshot_says_nothing_of_vms(world: World, agent: Agent) -> None:
    said = world.hear_all(agent.snapshot())

    assert (said.vms, said.changes) == ({}, [])
    assert sum(map(len, said.inventory.values())) == 6


def test_a4_facet_left_out_of_a_snapshot_ends_only_in_the_digest(world: World, agent: Agent) -> None:
    del agent.vms[vm(0)]["guest"]

    said = world.hear_all(agent.snapshot())

    assert (said.vms, said.requests) == ({}, [])
    assert world.hear(agent.heartbeat()).requests == []


def test_vm_without_facets_is_told_of_and_counted(world: World, agent: Agent) -> None:
    said = world.hear(agent.change({vm(9): {}}))

    assert said.vms == {vm(9): ({}, None)}
    assert said.requests == []


@pytest.mark.parametrize("reason", list(GoneReason))
def test_a7_gone_is_evidence_as_it_stands(world: World, agent: Agent, reason: GoneReason) -> None:
    said = world.hear(agent.change(gone={vm(2): reason}))

    assert said.vms == {vm(2): ({}, reason)}
    assert said.requests == []
    assert vm(2) not in world.core.hosts[agent.host_id].vms


def test_gone_of_a_vm_we_never_heard_of_travels_too(world: World, agent: Agent) -> None:
    said = world.hear(agent.change(gone={vm(77): GoneReason.UNDEFINED}))

    assert said.vms == {vm(77): ({}, GoneReason.UNDEFINED)}


def test_vm_gone_and_back_in_one_report_is_there_whole(world: World, agent: Agent) -> None:
    body = Changes(
        vms=[VmFacets(vm_id=vm(0), facets={"run": b"r"})], gone=[Gone(vm_id=vm(0), reason=GoneReason.TRANSIENT_ENDED)]
    )
    agent.vms[vm(0)] = {"run": b"r"}

    said = world.hear(agent.say(body))

    assert said.vms == {vm(0): ({"run": b"r"}, None)}
    assert said.requests == []


def test_absence_is_judged_from_the_inventory_of_the_last_part_alone(world: World, agent: Agent) -> None:
    del agent.vms[vm(5)]
    first, last = agent.snapshot(2)

    assert world.hear(first).vms == {}
    said = world.hear(last)

    assert said.vms == {vm(5): ({}, GoneReason.ABSENT)}
    assert said.requests == []


def test_inventory_goes_to_every_partition_also_empty_shares(world: World, agent: Agent) -> None:
    agent.vms = {vm(0): {"run": b"r"}}

    said = world.hear_all(agent.snapshot())

    home = partition_of(key_of(vm(0)), PARTITIONS)
    assert said.inventory == {target: [vm(0)] if target == home else [] for target in range(PARTITIONS)}


def test_vm_started_while_the_snapshot_was_under_way_is_not_absent(world: World, agent: Agent) -> None:
    """Scenario 7: the inventory is as of the last part's own seq."""
    first, _ = agent.snapshot(2)
    agent.seq -= 1
    started = agent.change({vm(8): {"run": b"r"}})
    last = agent.say(
        SnapshotPart(snapshot_id=first.body.snapshot_id, part=2, parts=2, inventory=list(agent.vms))
        if isinstance(first.body, SnapshotPart)
        else first.body
    )

    said = world.hear_all([first, started, last])

    assert said.vms == {}
    assert said.requests == []


def test_one_bad_facet_is_put_aside_and_the_rest_counts(world: World, agent: Agent) -> None:
    """Scenario 14, rule A5."""
    said = world.hear(agent.change({vm(0): {"run": HUGE, "guest": b"new"}, vm(1): {"later": b"x", "run": b"new"}}))

    assert said.vms == {vm(0): ({"guest": b"new"}, None), vm(1): ({"run": b"new"}, None)}
    assert said.dead_reasons() == ["facet_too_large", "facet_unknown"]
    assert said.dead[0].value == HUGE
    assert said.requests == []


def test_refused_facet_is_remembered_for_the_digest_and_put_aside_once(world: World, agent: Agent) -> None:
    world.hear(agent.change({vm(0): {"run": HUGE, "later": b"x"}}))

    again = world.hear(agent.change({vm(0): {"run": HUGE, "later": b"x"}}))
    good = world.hear(agent.change({vm(0): {"run": b"r"}}))

    assert (again.dead, again.requests) == ([], [])
    assert good.vms == {}, "the vms stage still holds what was said before the refused one"
    assert good.requests == []
    assert world.hear_all(agent.snapshot()).requests == []


def test_refused_facets_per_vm_are_bounded(world: World, agent: Agent) -> None:
    many = {f"later{index}": b"x" for index in range(20)}

    said = world.hear(agent.change({vm(0): many}))

    marks = world.core.hosts[agent.host_id].vms[vm(0)]
    assert marks.rejected is not None
    assert len(marks.rejected) == 8
    assert said.dead_reasons() == ["facet_unknown"] * 20
    assert [request.reason for request in said.requests] == ["digest"]


def test_facet_name_that_is_no_ascii_is_put_aside(world: World, agent: Agent) -> None:
    report = agent.say(Changes(vms=[VmFacets(vm_id=vm(0), facets={"rün": b"x"})]))

    assert world.hear(report).dead_reasons() == ["facet_unknown"]


def test_gate_of_a_whole_vm_counts_facets_not_named_no_more_but_knows_what_travelled() -> None:
    before = gate(vm(0), VmMarks(1, NO_MARKS), {"run": b"r", "guest": b"g", "later": b"l"}, whole=False, force=False)

    after = gate(vm(0), before.after, {"guest": b"g"}, whole=True, force=False)

    alone = gate(vm(0), VmMarks(1, NO_MARKS), {"guest": b"g"}, whole=True, force=False)
    assert before.after.total() + after.drift == after.after.total() == alone.after.total()
    assert after.after.travelled() == before.after.travelled()
    assert after.passed == {}
    again = gate(vm(0), after.after, {"run": b"r", "guest": b"g", "later": b"l"}, whole=True, force=False)
    assert (again.passed, again.after) == ({}, before.after)


def test_storage_claims_count_in_the_digest(world: World, agent: Agent) -> None:
    agreed = world.hear(agent.change(storage={"one": b"claim", "two": b"claim"}))
    changed = world.hear(agent.change(storage={"one": b"other"}, storage_gone=("two",)))

    assert (agreed.requests, changed.requests, changed.reports) == ([], [], [])


def test_snapshot_ends_storage_claims_it_does_not_name(world: World, agent: Agent) -> None:
    world.hear(agent.change(storage={"one": b"claim"}))
    agent.storage = {}

    world.hear_all(agent.snapshot())

    assert world.hear(agent.heartbeat()).requests == []


def test_claims_per_host_are_bounded(world: World, agent: Agent) -> None:
    said = world.hear(agent.change(storage={f"domain{index}": b"" for index in range(1030)}))

    assert set(said.dead_reasons()) == {"too_many_facets"}
    assert len(world.core.hosts[agent.host_id].row.marks) == 1024
