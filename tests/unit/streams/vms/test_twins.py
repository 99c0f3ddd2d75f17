"""What is laid out by hand is what the records themselves would say, byte for byte."""

from typing import Any

import msgspec
import pytest

from schemas.change import Evidence
from schemas.codec import decode, encode, header_of
from schemas.facets.devices import Device, Devices
from schemas.facets.guest import Guest
from schemas.observation import VmObservation
from schemas.vm_change import VmChange, state_digest
from schemas.vm_state import FacetMark, VmFacet, VmHead
from streams.vms.facets import NAMES, NO_FACETS, marks, pack, prints_of, raw_mark, rejected
from streams.vms.rows import VmsHostRow, VmsPartitionRow
from streams.vms.twins import twin_of
from tests.unit.streams.vms.scene import VM, Scene

RECORDS = {header_of(kind): kind for kind in (VmHead, VmFacet, VmsHostRow, VmsPartitionRow)}


@pytest.fixture(scope="module")
def scene() -> Scene:
    """A life with all that heads, claims and changes can show."""
    scene = Scene()
    for name in "SD":
        scene.host(name, source=0 if name == "S" else 1)
    scene.see("S", "up")
    scene.tell("S", Guest(agent_connected=True, fqdn="a", users=["b", "a"]), Devices(devices=[]))
    scene.say("S", vms=[VmObservation(VM, {"jobs": b"\xc1", "guest": b"\xc1"})])
    scene.tell("S", Devices(devices=[Device(device_class="disk", alias="a")]))
    scene.see("S", "migrating_from", peer="D", phase="pre_copy")
    scene.see("D", "migrating_to")
    scene.see("D", "up", reason="migrated", process="2")
    scene.tick(2)
    scene.see("S", "up")
    scene.say("D", events=["silent"])
    scene.tick(80, step=5)
    scene.say("D", events=["back", "confirmed"])
    scene.see("D", "paused", pause="io_error", process="2")
    scene.see("S", "down", exit_="normal/guest_shutdown")
    scene.see("D", "down", exit_="error/qemu_died", process="2")
    scene.gone("S", "undefined")
    scene.gone("D", "undefined")
    scene.tick(5)
    return scene


def test_every_row_is_what_its_record_encodes_to(scene: Scene) -> None:
    rows = [row for batch in scene.batches for row in batch.rows if row.value is not None]
    assert {row.schema for row in rows} == set(RECORDS)
    for row in rows:
        assert row.value is not None
        assert row.schema is not None
        assert encode(decode(RECORDS[row.schema], row.value, row.schema)) == row.value


def test_every_change_is_what_its_record_encodes_to(scene: Scene) -> None:
    changes = [output.value for output in scene.outputs if output.topic == "vm.changes"]
    assert len(changes) > 10
    for value in changes:
        assert value is not None
        assert encode(msgspec.msgpack.decode(value, type=VmChange)) == value


def test_digests_are_those_of_the_heads(scene: Scene) -> None:
    for batch in scene.batches:
        for row in batch.rows:
            if row.schema != header_of(VmHead) or row.value is None:
                continue
            head = decode(VmHead, row.value, row.schema)
            assert head.digest == state_digest(
                incarnation=head.incarnation,
                version=head.version,
                status=head.status,
                availability=head.availability,
                host_id=head.host_id,
                ownership_epoch=head.ownership_epoch,
                run_id=head.run_id,
                exit_=head.exit,
                facets=head.facets,
                managed=head.managed,
            )


def test_marks_and_prints_are_slices_of_what_is_kept() -> None:
    """Also of a facet that was never readable, and of none at all."""
    facet, raw = Devices(devices=[]), raw_mark(VM, 4, b"x")
    kept = list(NO_FACETS)
    kept[4], kept[0] = pack(raw, facet), rejected(raw, None)
    told = msgspec.msgpack.decode(encode_any(marks(tuple(kept))), type=dict[str, FacetMark])
    number = int.from_bytes(raw, "big")
    assert set(told) == {NAMES[0], NAMES[4]}
    assert told[NAMES[0]] == FacetMark(number, b"", True)
    assert (told[NAMES[4]].raw, told[NAMES[4]].rejected) == (number, False)
    prints = prints_of(tuple(kept))
    by_slot = msgspec.msgpack.decode(encode_any(prints.by_slot), type=dict[str, bytes])
    assert by_slot == {NAMES[4]: told[NAMES[4]].normal}
    assert msgspec.msgpack.decode(encode_any(prints.by_name)) == [[NAMES[4], told[NAMES[4]].normal]]
    assert marks(NO_FACETS) == {}
    assert prints_of(NO_FACETS).by_slot == {}


def encode_any(value: Any) -> bytes:
    """As a part of a twin."""
    return msgspec.msgpack.encode(value)


def test_a_twin_that_lacks_a_field_is_no_record() -> None:
    with pytest.raises(TypeError):
        encode(twin_of(VmChange)())
    evidence = twin_of(Evidence)()
    evidence.topic = "host.reports"
    with pytest.raises(msgspec.ValidationError, match="missing required field `log`"):
        msgspec.msgpack.decode(encode(evidence), type=Evidence)
