"""A core comes back from its rows: torn batches, late rows of a dead owner, lost facets, another input log."""

import msgspec
import pytest

from schemas.codec import NewerMajorError, RecordError, decode, encode, header_of
from schemas.facets.devices import Device, Devices
from schemas.ids import uuid_text
from schemas.rules import RULES_VERSION
from schemas.vm_state import VmFacet, VmHead
from streams.runtime.stage import PARTITION_KEY, Row
from streams.vms.facets import SLOT_OF, value_of
from streams.vms.loading import VmsLoader
from streams.vms.rows import GENERATION_BITS, VmsPartitionRow, heads_of
from tests.unit.streams.vms.scene import TOPIC_IDS, VM, Scene, host_id

HEAD_KEY = uuid_text(VM).encode()
RUN_KEY = f"{uuid_text(VM)}/{uuid_text(host_id('S'))}/run".encode()


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    scene.host("S", 0)
    scene.host("D", 1)
    scene.tick(20)
    scene.see("S", "up")
    scene.see("D", "migrating_to")
    scene.see("S", "paused", pause="user")
    return scene


def rows(scene: Scene) -> list[Row]:
    return [row for batch in scene.batches for row in batch.rows]


def loaded(scene: Scene, kept: list[Row]) -> Scene:
    """A scene that goes on where these rows end."""
    loader = scene.stage.loader(0)
    for row in kept:
        loader.add(*row)
    again = Scene(loader=loader)
    again.__dict__.update({name: value for name, value in vars(scene).items() if name not in ("core", "outputs")})
    again.outputs = []
    return again


def test_it_goes_on_as_if_nothing_had_happened(scene: Scene) -> None:
    again = loaded(scene, rows(scene))
    assert again.core.applied == scene.core.applied
    assert heads_of(again.core.state, applied=0) == heads_of(scene.core.state, applied=0)
    again.log, again.batches = list(scene.log), []
    [change] = again.see("S", "up")
    assert change.previous_digest == scene.last.state_digest
    assert change.version == scene.last.version + 1


def test_a_deleted_key_is_forgotten(scene: Scene) -> None:
    again = loaded(scene, [*rows(scene), Row(HEAD_KEY, None, None)])
    assert not again.core.state.vms


def test_a_facet_above_its_head_is_held_and_the_older_value_stands(scene: Scene) -> None:
    torn = scene.batches.pop()
    assert torn.rows[0].key == RUN_KEY
    again = loaded(scene, [*rows(scene), torn.rows[0]])
    vm = again.core.state.vms[VM]
    packed = vm.claims[0].facets[SLOT_OF["run"]]
    assert packed is not None
    assert msgspec.msgpack.decode(value_of(packed))["status"] == "up"
    replay = [again.core.apply(record) for record in scene.log[again.core.applied + 1 :]]
    assert replay
    assert again.core.seal().outputs == torn.outputs


def test_torn_twice_the_value_below_the_head_is_still_there(scene: Scene) -> None:
    torn = scene.batches.pop()
    again = loaded(scene, [*rows(scene), torn.rows[0], torn.rows[0], torn.rows[0]])
    packed = again.core.state.vms[VM].claims[0].facets[SLOT_OF["run"]]
    assert packed is not None
    assert msgspec.msgpack.decode(value_of(packed))["status"] == "up"


def test_late_rows_of_a_dead_owner_do_not_win(scene: Scene) -> None:
    late = [row for batch in scene.batches[:-1] for row in batch.rows]
    again = loaded(scene, [*rows(scene), *late])
    assert again.core.applied == scene.core.applied
    assert heads_of(again.core.state, applied=0) == heads_of(scene.core.state, applied=0)


def test_a_lost_facet_is_asked_for(scene: Scene) -> None:
    again = loaded(scene, [row for row in rows(scene) if row.key != RUN_KEY])
    again.say("S")
    assert [(request.host_id, request.force) for request in again.requests] == [(host_id("S"), True)]


def test_facets_that_no_head_lists_are_deleted(scene: Scene) -> None:
    scene.gone("D", "absent")
    again = loaded(scene, rows(scene))
    again.log, again.batches = list(scene.log), []
    again.say("S")
    deleted = {row.key for row in again.batches[-1].rows if row.value is None}
    assert deleted == {
        f"{uuid_text(VM)}/{uuid_text(host_id('D'))}/{facet}".encode() for facet in ("run", "identity", "console")
    }


def test_facets_of_an_ended_claim_are_deleted_in_the_batch_after_the_head(scene: Scene) -> None:
    scene.gone("D", "absent")
    assert all(row.value is not None for row in scene.batches[-1].rows)
    scene.say("S")
    assert len([row for row in scene.batches[-1].rows if row.value is None]) == 3


def test_details_before_heads_before_hosts_and_the_partition_last(scene: Scene) -> None:
    scene.tell("S", Devices(devices=[Device(device_class="disk", alias="a")]), events=["silent"])
    keys = [row.key for row in scene.batches[-1].rows]
    assert [b"/" in keys[0], keys[1], keys[2].startswith(b"#host/"), keys[3]] == [True, HEAD_KEY, True, PARTITION_KEY]
    assert len(keys) == 4


def test_public_rows_say_what_they_are(scene: Scene) -> None:
    schemas = {row.key: row.schema for row in rows(scene)}
    assert schemas[HEAD_KEY] == header_of(VmHead)
    assert schemas[RUN_KEY] == header_of(VmFacet)


def test_another_input_log_begins_at_its_start_and_still_rises(scene: Scene) -> None:
    loader = VmsLoader(0, 2, {"vm.observations": "00000000-0000-0000-0000-0000000000bb"})
    for row in rows(scene):
        loader.add(*row)
    again = Scene(loader=loader)
    assert again.core.applied == -1
    again.__dict__.update({name: getattr(scene, name) for name in ("now", "speakers", "offsets", "ticks", "tick_at")})
    [change] = again.see("S", "up")
    assert change.version == scene.last.version + 1
    [head] = heads_of(again.core.state, applied=again.core.state.vms[VM].applied)
    assert head.applied >> GENERATION_BITS == 1


def partition_row(**changes: object) -> Row:
    row = VmsPartitionRow(
        applied=5,
        generation=0,
        topic_id=TOPIC_IDS["vm.observations"],
        rules_version=1,
        ticks=0,
        time=0,
        newest_at=0,
        pulse=0,
        sources=[],
    )
    return Row(PARTITION_KEY, encode(msgspec.structs.replace(row, **changes)), header_of(VmsPartitionRow))


def test_newer_rules_are_not_touched() -> None:
    loader = VmsLoader(0, 2, TOPIC_IDS)
    loader.add(*partition_row(rules_version=2))
    with pytest.raises(NewerMajorError, match="rules 2"):
        loader.finish()


def test_w3_a_table_of_newer_rules_is_rolled_back(scene: Scene) -> None:
    *details, (key, value, schema) = rows(scene)
    newer = msgspec.structs.replace(decode(VmsPartitionRow, value or b"", schema), rules_version=2)
    loader = VmsLoader(0, 2, TOPIC_IDS, newer_rules=True)
    for row in [*details, Row(key, encode(newer), schema)]:
        loader.add(*row)
    core = loader.finish()
    core.newer_until = 77
    core.touch()
    written = core.seal().rows[-1]
    assert loader.kept is not None
    assert loader.kept.rules_version == 2
    found = decode(VmsPartitionRow, written.value or b"", written.schema)
    assert found == msgspec.structs.replace(newer, rules_version=RULES_VERSION, newer_until=77)


def test_another_number_of_partitions_is_refused() -> None:
    loader = VmsLoader(0, 2, TOPIC_IDS)
    loader.add(*partition_row())
    with pytest.raises(RecordError, match="0 hosts partitions, the settings say 2"):
        loader.finish()


def test_a_newer_major_is_refused() -> None:
    loader = VmsLoader(0, 2, TOPIC_IDS)
    with pytest.raises(NewerMajorError):
        loader.add(HEAD_KEY, b"", b"VmHead/2.0")


def test_the_stage_names_its_topics_and_metrics(scene: Scene) -> None:
    assert (scene.stage.inputs, scene.stage.table_topic) == (("vm.observations",), "vm.state")
    assert {out.topic for out in scene.outputs} <= set(scene.stage.outputs)
    assert {counts.metric for counts in scene.counts} <= set(scene.stage.metric_names())


def busy(scene: Scene, changes: int) -> None:
    """A VM that is paused and goes on, again and again."""
    for number in range(changes):
        scene.see("S", "paused" if number % 2 else "up", pause="user" if number % 2 else None)


def test_a_vm_with_many_rows_in_the_log_holds_only_what_a_head_may_name(scene: Scene) -> None:
    busy(scene, 300)
    loader = scene.stage.loader(0)
    for row in rows(scene):
        loader.add(*row)
    held = loader._vms[HEAD_KEY]
    assert len(held) < 2 * 64 + 20
    assert heads_of(loader.finish().state, applied=0) == heads_of(scene.core.state, applied=0)


def test_late_rows_among_many_do_not_win(scene: Scene) -> None:
    busy(scene, 200)
    late = [row for batch in scene.batches[:-1] for row in batch.rows]
    again = loaded(scene, [*rows(scene), *late])
    assert heads_of(again.core.state, applied=0) == heads_of(scene.core.state, applied=0)
    packed = again.core.state.vms[VM].claims[0].facets[SLOT_OF["run"]]
    assert packed == scene.core.state.vms[VM].claims[0].facets[SLOT_OF["run"]]


def test_a_deleted_facet_is_forgotten_among_the_rows_of_its_vm(scene: Scene) -> None:
    again = loaded(scene, [*rows(scene), Row(RUN_KEY, None, None)])
    facets = again.core.state.vms[VM].claims[0].facets
    assert facets[SLOT_OF["run"]] is None
    assert facets[SLOT_OF["identity"]] is not None


def test_a_facet_of_a_later_version_is_left_alone(scene: Scene) -> None:
    newer = Row(RUN_KEY.replace(b"/run", b"/moods"), b"?", header_of(VmFacet))
    again = loaded(scene, [*rows(scene), newer])
    assert not again.core.state.deletable_facets
    assert heads_of(again.core.state, applied=0) == heads_of(scene.core.state, applied=0)


def test_a_key_that_names_no_host_is_refused() -> None:
    loader = VmsLoader(0, 2, TOPIC_IDS)
    with pytest.raises(RecordError, match="names no host"):
        loader.add(HEAD_KEY + b"/nobody/run", b"", header_of(VmFacet))


def test_a_damaged_row_is_named(scene: Scene) -> None:
    loader = scene.stage.loader(0)
    for row in [*rows(scene), Row(RUN_KEY, b"\xc1", header_of(VmFacet))]:
        loader.add(*row)
    with pytest.raises(RecordError, match=rf"vm.state\[0\] {uuid_text(VM)}.*the table is damaged"):
        loader.finish()
