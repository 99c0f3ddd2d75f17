"""The table: rows, loading, torn batches, majors (design §6); faults P2, P12."""

from dataclasses import replace

import msgspec
import pytest

from schemas.codec import NewerMajorError, RecordError, decode, encode
from schemas.host_rows import PARTITION_KEY, HostRow, PartitionRow, VmRow
from schemas.observation import HostEvent
from schemas.rules import RULES_VERSION
from streams.hosts.core import HostsConfig
from streams.hosts.loader import HostsLoader
from streams.hosts.rows import ids_of
from streams.runtime.stage import Kept, Row
from tests.unit.streams.hosts.world import PARTITION, Agent, World, host_at, make_config, vm


@pytest.fixture
def agent() -> Agent:
    agent = Agent(host_at(0))
    agent.vms = {vm(index): {"run": b"r"} for index in range(3)}
    return agent


@pytest.fixture
def world(agent: Agent) -> World:
    world = World()
    world.started(agent)
    return world


def rows_of(world: World) -> list[Row]:
    """All rows so far, in the order of the log."""
    return [row for batch in world.loader_rows for row in batch.rows]


def load(rows: list[Row], *, config: HostsConfig | None = None) -> HostsLoader:
    """A loader that took these rows."""
    loader = HostsLoader(config or make_config(), PARTITION)
    for row in rows:
        loader.add(*row)
    return loader


def test_batch_has_details_then_heads_then_the_partition(world: World) -> None:
    rows = world.loader_rows[-1].rows

    assert [row.key.count(b"/") for row in rows] == [1, 1, 1, 0, 0]
    assert rows[-1].key == PARTITION_KEY
    assert len({row.key for row in rows}) == len(rows)
    assert [row.schema for row in rows] == [b"VmRow/1.0"] * 3 + [b"HostRow/1.0", b"PartitionRow/1.2"]


def test_heartbeat_writes_the_host_row_and_the_partition_row_only(world: World, agent: Agent) -> None:
    world.hear(agent.heartbeat())

    assert [row.key for row in world.loader_rows[-1].rows] == [world.core.hosts[agent.host_id].key, PARTITION_KEY]


def test_batch_of_a_refused_record_still_has_the_partition_row(world: World) -> None:
    world.core.apply(world.log[0]._replace(offset=world.offset))

    (row,) = world.core.seal().rows

    assert row.value is not None
    assert decode(PartitionRow, row.value, row.schema).applied == world.offset


def test_rows_of_several_inputs_coalesce(world: World, agent: Agent) -> None:
    world.core.apply(world.log[-1]._replace(offset=world.offset))
    world.core.apply(world.log[-1]._replace(offset=world.offset + 1))

    assert [row.key for row in world.core.seal().rows] == [PARTITION_KEY]


def test_loaded_core_goes_on_as_if_nothing_had_happened(world: World, agent: Agent) -> None:
    world.reload()

    assert world.core.applied == world.offset - 1
    assert world.core.expected_tick == 33
    said = world.hear(agent.heartbeat())
    assert (said.reports, said.changes, said.requests) == ([], [], [])
    assert world.tick(21).events == [HostEvent.SILENT]


def test_gone_vm_is_deleted_from_the_table(world: World, agent: Agent) -> None:
    del agent.vms[vm(1)]
    world.hear_all(agent.snapshot())

    assert [row.value for row in world.loader_rows[-1].rows].count(None) == 1
    world.reload()
    assert set(world.core.hosts[agent.host_id].vms) == {vm(0), vm(2)}


def test_rows_behind_the_last_partition_row_are_left_out(world: World, agent: Agent) -> None:
    before = load(rows_of(world)).finish()
    world.hear(agent.change({vm(0): {"run": b"new"}, vm(5): {"run": b"new"}}))

    torn = load(rows_of(world)[:-1]).finish()

    assert torn.applied == before.applied
    host, known = torn.hosts[agent.host_id], before.hosts[agent.host_id]
    assert (host.vms, host.row) == (known.vms, known.row)


def test_late_batch_of_a_former_owner_is_left_out(world: World, agent: Agent) -> None:
    late = world.loader_rows[-1].rows
    world.hear(agent.change({vm(0): {"run": b"new"}}))

    core = load([*rows_of(world), *late]).finish()

    assert core.applied == world.core.applied
    assert core.hosts[agent.host_id].vms == world.core.hosts[agent.host_id].vms


def test_late_row_within_a_newer_batch_does_not_replace_a_newer_one(world: World, agent: Agent) -> None:
    late = [row for row in world.loader_rows[-1].rows if row.key.endswith(b"0000")]
    world.hear(agent.change({vm(0): {"run": b"new"}}))
    world.hear(agent.heartbeat())
    rows = rows_of(world)

    core = load([*rows[:-2], *late, *rows[-2:]]).finish()

    assert core.hosts[agent.host_id].vms == world.core.hosts[agent.host_id].vms


def test_torn_first_batch_leaves_nothing(world: World) -> None:
    core = load(world.loader_rows[-1].rows[:-1]).finish()

    assert (core.applied, core.hosts) == (-1, {})


@pytest.mark.parametrize("kind", ["HostRow", "VmRow", "PartitionRow"])
def test_row_of_a_newer_major_is_refused_with_its_place(world: World, kind: str) -> None:
    header = f"{kind}/1.{2 * (kind == 'PartitionRow')}".encode()
    rows = [row._replace(schema=f"{kind}/2.0".encode()) if row.schema == header else row for row in rows_of(world)]
    rows = rows[-1:] if kind == "PartitionRow" else rows[:-1] + rows_of(world)[-1:]

    with pytest.raises(NewerMajorError, match=rf"hosts\.table\[1\] .*{kind}/2\.0.*; upgrade"):
        load(rows).finish()


def test_p12_row_of_newer_rules_is_refused() -> None:
    row = PartitionRow(
        applied=1, log=1, tick=1, tick_at=1, tick_owner=b"", restart_tick=0, resync_tokens=1, rules_version=2
    )

    with pytest.raises(NewerMajorError, match=r"rules version 2, this worker knows 1; run the newer version"):
        load([Row(PARTITION_KEY, encode(row), b"PartitionRow/1.0")]).finish()


def test_w3_rows_of_newer_rules_that_were_rolled_back_are_history(world: World) -> None:
    *details, last = rows_of(world)
    newer = decode(PartitionRow, last.value or b"", last.schema)
    newer = msgspec.structs.replace(newer, rules_version=2)

    core = load([*details, last._replace(value=encode(newer)), last]).finish()

    assert core.applied == newer.applied


def test_w3_only_the_command_that_rolls_back_takes_a_table_of_newer_rules(world: World) -> None:
    *details, last = rows_of(world)
    newer = msgspec.structs.replace(decode(PartitionRow, last.value or b"", last.schema), rules_version=2)

    loader = load([*details, last._replace(value=encode(newer))], config=replace(make_config(), newer_rules=True))
    core = loader.finish()
    core.newer_until = 99
    core.touch()
    written = core.seal().rows[-1]

    assert loader.kept == Kept(foreign=False, table_start=0, rules_version=2)
    row = decode(PartitionRow, written.value or b"", written.schema)
    assert row == msgspec.structs.replace(newer, rules_version=RULES_VERSION, newer_until=99)


def test_p8_loader_tells_an_empty_table_from_one_that_is_kept(world: World) -> None:
    assert load([]).kept is None
    assert load([row for row in rows_of(world) if row.key != PARTITION_KEY]).kept is None
    assert load(rows_of(world)).kept == Kept(foreign=False, table_start=0, rules_version=RULES_VERSION)


def test_b6_log_created_again_is_foreign_starts_at_its_beginning_and_distrusts_all(world: World, agent: Agent) -> None:
    config = replace(make_config(), reports_topic_id="9c5ad9cf-93d8-4ae1-a7c5-0f6d1a1fbb2e")
    loader = load(rows_of(world), config=config)
    core = loader.finish()

    assert loader.kept == Kept(foreign=True, table_start=0, rules_version=RULES_VERSION)
    assert core.applied == -1
    assert not core.hosts[agent.host_id].row.confirmed
    batch = core.seal()
    assert batch.outputs != []
    row = decode(PartitionRow, batch.rows[-1].value or b"", batch.rows[-1].schema)
    assert (row.log, row.topic_id, row.applied) == (2, config.reports_topic_id, -1)


def test_rows_of_the_next_log_replace_those_of_the_one_before(world: World, agent: Agent) -> None:
    config = replace(make_config(), another_log=frozenset({PARTITION}))
    adopted = load(rows_of(world), config=config).finish().seal()

    core = load([*rows_of(world), *adopted.rows]).finish()

    assert not core.hosts[agent.host_id].row.confirmed
    assert core.applied == -1


def test_host_state_created_again_is_written_again(world: World) -> None:
    config = replace(make_config(), state_topic_id="a")
    kept = load(rows_of(world), config=config).finish()
    world.hear(Agent(host_at(0)).heartbeat())
    seen = [*rows_of(world), *kept.seal().rows]
    assert kept.seal().outputs == []
    row = msgspec.structs.replace(decode(PartitionRow, seen[-1].value or b"", seen[-1].schema), state_topic_id="a")
    rows = [*seen[:-1], seen[-1]._replace(value=encode(row))]

    again = load(rows, config=replace(config, state_topic_id="b")).finish().seal()

    assert [output.topic for output in again.outputs if output.topic == "host.state"] == ["host.state"]
    assert decode(PartitionRow, again.rows[-1].value or b"", again.rows[-1].schema).state_topic_id == "b"


@pytest.mark.parametrize("key", [b"nonsense", b"686f7374-0000-0000-0000-000000000001/x", b""])
def test_row_that_is_none_of_ours_is_refused(world: World, key: bytes) -> None:
    with pytest.raises(RecordError, match=r"the table is damaged"):
        load([Row(key, b"\x90", b"VmRow/1.0"), *rows_of(world)]).finish()


def test_key_names_host_and_vm() -> None:
    host_id, vm_id = host_at(0), vm(3)
    host_key = b"686f7374-0000-0000-0000-000000000001"

    assert ids_of(host_key) == (host_id, None)
    assert ids_of(host_key + b"/766d5f5f-0000-0000-0000-000000000003") == (host_id, vm_id)


def test_marks_of_an_older_version_are_filled_up(world: World, agent: Agent) -> None:
    rows = rows_of(world)
    at = next(index for index, row in enumerate(rows) if row.schema == b"VmRow/1.0")
    value = rows[at].value
    assert value is not None
    old = decode(VmRow, value, b"VmRow/1.0")
    shorter = VmRow(applied=old.applied, partition=old.partition, marks=old.marks[:32], rejected={})
    rows[at] = rows[at]._replace(value=encode(shorter))

    core = load(rows).finish()

    assert core.hosts[agent.host_id].vms == world.core.hosts[agent.host_id].vms


def test_host_row_survives_the_wire(world: World, agent: Agent) -> None:
    row = world.core.hosts[agent.host_id].row

    assert decode(HostRow, encode(row), b"HostRow/1.0") == row
