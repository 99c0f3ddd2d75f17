"""Admission (rules §4): repeats, absent and empty facets, unknown fields, facets nobody can read."""

import msgspec
import pytest

from schemas.codec import NewerMajorError, encode, header_of
from schemas.facets import FACET_LIMIT_BYTES
from schemas.facets.devices import Device, Devices
from schemas.facets.guest import Guest, GuestNic
from schemas.facets.identity import Identity
from schemas.observation import ObservationBatch, VmObservation
from schemas.status import Status
from tests.unit.streams.vms.scene import VM, Scene, run


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    scene.host("S", 0)
    scene.tick(20)
    scene.see("S", "up")
    return scene


def counted(scene: Scene, metric: str) -> int:
    return sum(counts.amount for counts in scene.counts if counts.metric == metric)


def facet_of(scene: Scene, name: str) -> dict[str, object]:
    decoded: dict[str, object] = msgspec.msgpack.decode(bytes(scene.last.facets[name].after))
    return decoded


def test_a1_evidence_at_or_below_the_claims_position_is_a_repeat(scene: Scene) -> None:
    at = scene.offsets[0]
    observation = VmObservation(VM, {"run": encode(run("paused", pause="user"))})
    assert not scene.say("S", vms=[observation], offset=at)
    assert not scene.say("S", vms=[observation], offset=at - 1)
    assert counted(scene, "repeats_records") == 2
    assert scene.say("S", vms=[observation])


def test_a1_a_repeat_does_not_bring_back_a_claim_that_ended(scene: Scene) -> None:
    scene.host("D", 1)
    scene.see("D", "down")
    at = scene.offsets[1]
    scene.gone("D", "absent")
    scene.speakers["D"].introduced.clear()
    observation = VmObservation(VM, {"run": encode(run("up", host="D"))})
    assert not scene.say("D", vms=[observation], offset=at)
    assert len(scene.core.state.vms[VM].claims) == 1


def test_a4_an_absent_facet_is_unchanged_and_an_empty_one_is_empty(scene: Scene) -> None:
    scene.tell("S", Devices(devices=[Device(device_class="disk", alias="a")]))
    scene.see("S", "paused", pause="user")
    assert list(scene.last.facets) == ["run"]
    scene.tell("S", Devices())
    assert scene.last.facets["devices"].changed == ["devices"]
    assert facet_of(scene, "devices") == {}


def test_a4_an_unknown_field_keeps_the_value_of_the_same_process(scene: Scene) -> None:
    assert not scene.tell("S", Identity(name="vm"))
    assert not scene.tell("S", run("up", process=None))
    scene.tell("S", Identity(name="renamed"))
    assert facet_of(scene, "identity") == {"name": "renamed", "vcpus": 2}


def test_a4_d4_guest_values_become_stale_until_the_guest_answers(scene: Scene) -> None:
    nics = [GuestNic(mac="a", ipv4=["10.0.0.1"])]
    scene.tell("S", Guest(agent_connected=True, fqdn="vm.example", nics=nics))
    scene.tell("S", Guest(agent_connected=None))
    assert scene.last.facets["guest"].before == {"agent_connected": True, "stale": False}
    assert facet_of(scene, "guest") == {
        "fqdn": "vm.example",
        "nics": [{"mac": "a", "ipv4": ["10.0.0.1"]}],
        "stale": True,
    }
    scene.tell("S", Guest(agent_connected=True))
    assert facet_of(scene, "guest") == {"agent_connected": True}


def test_a4_not_of_another_process(scene: Scene) -> None:
    scene.tell("S", Guest(agent_connected=True, fqdn="vm.example"))
    scene.tell("S", run("up", process="2"), Guest(agent_connected=False))
    assert facet_of(scene, "guest") == {"agent_connected": False}


def test_a5_a_malformed_facet_is_kept_apart_and_the_rest_counts(scene: Scene) -> None:
    facets = {"devices": b"\xc1", "run": encode(run("paused", pause="user"))}
    [change] = scene.say("S", vms=[VmObservation(VM, facets)])
    assert (change.status, list(change.facets)) == (Status.PAUSED, ["run"])
    [letter] = [out for out in scene.outputs if out.topic == "dead.letters"]
    assert (letter.key, letter.value) == (change.vm_id.encode(), b"\xc1")
    assert dict(letter.headers)["dlq.reason"] == b"malformed_facet"
    assert [request.force for request in scene.requests] == [True]


def test_a5_the_same_bytes_are_remembered_and_the_host_is_asked_once(scene: Scene) -> None:
    for data in (b"\xc1", b"\xc1", b"\xc0\xc0"):
        scene.say("S", vms=[VmObservation(VM, {"devices": data})])
    assert len([out for out in scene.outputs if out.topic == "dead.letters"]) == 2
    assert len(scene.requests) == 1
    assert counted(scene, "rejected_facets") == 2


def test_a5_the_last_readable_value_stays(scene: Scene) -> None:
    device = Device(device_class="disk", alias="a")
    scene.tell("S", Devices(devices=[device]))
    assert not scene.say("S", vms=[VmObservation(VM, {"devices": b"\xc1"})])
    assert not scene.tell("S", Devices(devices=[device]))
    scene.tell("S", Devices())
    assert scene.last.facets["devices"].before == {"devices": [{"class": "disk", "alias": "a"}]}


def test_a5_a_facet_above_the_limit_is_malformed(scene: Scene) -> None:
    big = encode(Identity(tags={f"{number:04}": "x" * 4000 for number in range(20)}))
    assert len(big) > FACET_LIMIT_BYTES
    assert not scene.say("S", vms=[VmObservation(VM, {"identity": big})])
    assert counted(scene, "rejected_facets") == 1


def test_a6_without_a_readable_run_facet_there_is_no_row_and_the_host_is_asked() -> None:
    scene = Scene()
    scene.host("S", 0)
    assert not scene.say("S", vms=[VmObservation(VM, {"run": b"\xc1", "identity": encode(Identity(name="vm"))})])
    assert not scene.core.state.vms
    assert len(scene.requests) == 1


def test_d1_the_order_of_devices_is_no_change(scene: Scene) -> None:
    disks = [Device(device_class="disk", alias=alias) for alias in "ab"]
    scene.tell("S", Devices(devices=disks))
    assert not scene.tell("S", Devices(devices=disks[::-1]))


def test_an_unknown_facet_is_counted_and_left_alone(scene: Scene) -> None:
    assert not scene.say("S", vms=[VmObservation(VM, {"weather": b"\x80"})])
    assert counted(scene, "rejected_facets") == 1


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xc1",
        encode(ObservationBatch(source=9, log=0, tick=1, tick_at=1, rules_version=1)),
    ],
)
def test_an_input_nobody_can_read_is_kept_and_passed_over(scene: Scene, value: bytes) -> None:
    assert not scene.apply(value, header_of(ObservationBatch))
    [letter] = [out for out in scene.outputs if out.topic == "dead.letters"]
    assert letter.value == value
    assert scene.core.applied == len(scene.log) - 1
    assert scene.see("S", "paused", pause="user")


def test_a_newer_major_or_newer_rules_stop_the_process(scene: Scene) -> None:
    with pytest.raises(NewerMajorError):
        scene.apply(b"", b"ObservationBatch/2.0")
    newer = ObservationBatch(source=0, log=0, tick=1, tick_at=1, rules_version=2)
    with pytest.raises(NewerMajorError, match="rules 2"):
        scene.apply(encode(newer), header_of(ObservationBatch))
    unreadable = encode(msgspec.structs.replace(newer, source="a word"))
    with pytest.raises(NewerMajorError, match="of a later minor"):
        scene.apply(unreadable, b"ObservationBatch/1.99")


def test_w3_newer_rules_below_the_rollback_are_taken(scene: Scene) -> None:
    newer = ObservationBatch(source=0, log=0, tick=1, tick_at=1, rules_version=2)
    scene.core.newer_until = len(scene.log) + 1
    scene.apply(encode(newer), header_of(ObservationBatch))
    with pytest.raises(NewerMajorError, match="rules 2"):
        scene.apply(encode(newer), header_of(ObservationBatch))
