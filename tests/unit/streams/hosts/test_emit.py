"""Batches to the vms stage: merged, bounded, carrying the clock (design §4.5, §5)."""

from schemas.ids import key_of, partition_of
from schemas.observation import ObservationBatch
from streams.hosts.emit import MESSAGE_TARGET_BYTES
from tests.unit.streams.hosts.world import PARTITIONS, Agent, Said, World, host_at, inputs_of, vm

MEBIBYTE = 1 << 20


def test_reports_of_one_seal_are_merged_into_one_message_per_partition() -> None:
    world = World()
    fleet = [Agent(host_at(index)) for index in range(10)]
    for agent in fleet:
        agent.vms = {vm(index): {"run": b"r"} for index in range(20)}
        world.core.apply(inputs_of(agent.snapshot()[0], offset=world.offset, at=world.now))
        world.offset += 1

    said = world.seal()

    assert len(said.batches) == PARTITIONS
    assert [len(batch.reports) for _, batch in said.batches] == [10] * PARTITIONS
    offsets = [report.offset for report in said.batches[0][1].reports]
    assert offsets == sorted(offsets)


def batches_of(said: Said, target: int) -> list[ObservationBatch]:
    """Messages to one partition."""
    return [batch for other, batch in said.batches if other == target]


def test_messages_stay_below_a_mebibyte_and_only_the_last_moves_the_clock() -> None:
    world = World()
    agent = Agent(host_at(0))
    world.started(agent)
    world.tick(1)
    for round_ in range(8):
        agent.vms = {vm(index): {"guest": bytes([round_]) * 60_000} for index in range(15)}
        world.core.apply(inputs_of(agent.change(agent.vms), offset=world.offset, at=world.now))
        world.offset += 1
    outputs = world.core.seal().outputs

    said = Said()
    said.add(outputs)
    sizes = [len(output.value or b"") for output in outputs if output.topic == "vm.observations"]
    assert max(sizes) < MEBIBYTE
    for target in range(PARTITIONS):
        ticks = [batch.tick for batch in batches_of(said, target)]
        assert len(ticks) > 1
        assert ticks[-1] == 33
        assert all(tick < 33 for tick in ticks[:-1])
    assert len(said.vms) == 15


def test_large_snapshot_reaches_all_partitions_whole() -> None:
    world = World()
    agent = Agent(host_at(0))
    ids = [vm(index) for index in range(400)]
    agent.vms = {vm_id: {"guest": bytes(2_300)} for vm_id in ids}
    world.tick(1)

    world.core.seal()
    world.core.apply(inputs_of(agent.snapshot()[0], offset=world.offset, at=world.now))
    outputs = world.core.seal().outputs

    said = Said()
    said.add(outputs)
    assert max(len(output.value or b"") for output in outputs) < MESSAGE_TARGET_BYTES
    assert set(said.vms) == set(ids)


def test_one_partition_of_a_large_report_is_split_by_vms() -> None:
    world = World()
    agent = Agent(host_at(0))
    home = [vm_id for vm_id in map(vm, range(60)) if partition_of(key_of(vm_id), PARTITIONS) == 0]
    agent.vms = {vm_id: {"guest": bytes(62_000)} for vm_id in home[:15]}
    world.core.apply(inputs_of(agent.snapshot()[0], offset=0, at=world.now))

    said = Said()
    said.add(world.core.seal().outputs)

    pieces = [report for target, report in said.reports if target == 0]
    assert len(pieces) == 2
    assert [piece.offset for piece in pieces] == [0, 0]
    assert (pieces[0].inventory, pieces[0].host) == (None, [])
    assert pieces[1].inventory is not None
    assert pieces[1].host != []
    assert [one.vm_id for piece in pieces for one in piece.vms] == home[:15]
