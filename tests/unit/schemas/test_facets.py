"""Facets: canonical bytes, normal form, ownership, and the digest both sides agree by."""

from enum import Enum
from random import Random
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from schemas.change import Availability
from schemas.facets import HOST_FACETS, VM_FACETS, Facet
from schemas.facets.devices import Device, Devices
from schemas.facets.guest import Guest, GuestNic
from schemas.facets.identity import Identity
from schemas.facets.normal import fingerprint, normal_form, normalise
from schemas.facets.run import Run
from schemas.fingerprints import NO_VM, low64, raw_fingerprint, storage_facet
from schemas.ownership import Owner, fields_of
from schemas.status import ALIVE, ENDED, RUNNING, Believed, Status
from schemas.vm_change import state_digest

names = st.text(min_size=1, max_size=8)
devices = st.lists(
    st.builds(Device, device_class=names, alias=names, address=st.none() | names),
    max_size=6,
    unique_by=lambda d: d.alias,
)


def test_all_eight_facets_are_there() -> None:
    assert {facet.value for facet in VM_FACETS} == {
        "identity", "run", "guest", "console", "devices", "jobs", "numa", "watchdog",
    }  # fmt: skip
    assert set(VM_FACETS) == set(Facet)


@pytest.mark.parametrize("kind", [*VM_FACETS.values(), *HOST_FACETS.values()], ids=lambda kind: kind.__name__)
def test_every_field_of_a_facet_has_exactly_one_owner_and_it_is_the_host(kind: type[msgspec.Struct]) -> None:
    owners = fields_of(kind)
    assert set(owners) == set(kind.__struct_fields__)
    assert set(owners.values()) <= {Owner.REPORTED, Owner.NOTED}


@given(devices, st.randoms(use_true_random=False))
def test_order_of_devices_is_no_change(items: list[Device], random: object) -> None:
    """Rule D1."""
    shuffled = list(items)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert fingerprint(Devices(devices=items)) == fingerprint(Devices(devices=shuffled))


@given(devices)
def test_normalising_twice_changes_nothing(items: list[Device]) -> None:
    once = normalise(Devices(devices=items))
    assert normalise(once) == once


def any_value(hint: Any, random: Random) -> Any:
    """A value of this type: few letters, NUL among them, and numbers with zero bytes."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any_value(random.choice(inner), random)
    if origin is list:
        return [any_value(inner[0], random) for _ in range(random.randrange(4))]
    if origin is dict:
        return {any_value(str, random): any_value(inner[1], random) for _ in range(random.randrange(4))}
    if issubclass(hint, msgspec.Struct):
        return hint(**{name: any_value(of, random) for name, of in get_type_hints(hint).items()})
    if issubclass(hint, Enum):
        return random.choice(list(hint))
    if hint is str:
        return "".join(random.choice("aabbb\0") for _ in range(random.randrange(3)))
    return hint(random.choice((0, 1, 2, 255, 1 << 40))) if hint in (int, bool) else None


@pytest.mark.parametrize("kind", [*VM_FACETS.values(), *HOST_FACETS.values()], ids=lambda kind: kind.__name__)
def test_the_short_way_to_the_normal_form_is_the_long_one(kind: type[msgspec.Struct]) -> None:
    """The short way looks whether there is anything to do; the long one, `normalise`, is what a normal form means."""
    random = Random(1)
    noted = {name: None for name, owner in fields_of(kind).items() if owner is Owner.NOTED}
    for _ in range(100):
        facet = any_value(kind, random)
        normal = normalise(facet)
        compared = msgspec.msgpack.encode(msgspec.structs.replace(normal, **noted))
        assert normal_form(facet) == (xxhash.xxh3_128_digest(compared), msgspec.msgpack.encode(normal))


def test_order_of_tags_is_no_change() -> None:
    one, other = Identity(tags={"a": "1", "b": "2"}), Identity(tags={"b": "2", "a": "1"})
    assert fingerprint(one) == fingerprint(other)
    assert msgspec.msgpack.encode(normalise(one)) == msgspec.msgpack.encode(normalise(other))


def test_noted_fields_take_no_part_and_reported_ones_do() -> None:
    up = Run(status=Status.UP, since=1)
    assert fingerprint(up) == fingerprint(msgspec.structs.replace(up, since=2))
    assert fingerprint(up) != fingerprint(msgspec.structs.replace(up, status=Status.PAUSED))


def test_nul_is_stripped_at_any_depth() -> None:
    """Rule D6."""
    guest = Guest(fqdn="a\0b", nics=[GuestNic(name="e\0th0", mac="m")], users=["r\0oot"])
    normal = normalise(guest)
    assert normal.fqdn == "ab"
    assert normal.nics[0].name == "eth0"
    assert normal.users == ["root"]


def test_absent_and_empty_are_two_things_for_maps() -> None:
    assert fingerprint(Identity(name=None)) != fingerprint(Identity(name=""))


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_raw_fingerprint_depends_on_every_part(one: bytes, other: bytes) -> None:
    vm = bytes(16)
    assert raw_fingerprint(vm, "run", one) != raw_fingerprint(vm, "guest", one)
    assert raw_fingerprint(vm, "run", one) != raw_fingerprint(NO_VM, storage_facet("run"), one)
    assert (raw_fingerprint(vm, "run", one) == raw_fingerprint(vm, "run", other)) == (one == other)


def test_low64_is_the_low_half() -> None:
    assert low64(bytes(8) + b"\0\0\0\0\0\0\1\2") == 0x0102


def digest_of(version: int = 1, facets: dict[str, bytes] | None = None) -> int:
    return state_digest(
        incarnation=5,
        version=version,
        status=Status.UP,
        availability=Availability(state=Believed.KNOWN),
        host_id=None,
        ownership_epoch=1,
        run_id=None,
        exit_=None,
        facets={"run": b"a", "guest": b"b"} if facets is None else facets,
        managed={},
    )


def test_state_digest_is_free_of_the_facets_order_and_sees_every_difference() -> None:
    assert digest_of() == digest_of(facets={"guest": b"b", "run": b"a"})
    assert digest_of() != digest_of(version=2)
    assert digest_of() != digest_of(facets={"run": b"a"})
    assert 0 <= digest_of() < 2**64


def test_statuses_are_sorted_into_alive_and_ended_without_rest() -> None:
    assert set(Status) == ALIVE | ENDED
    assert not ALIVE & ENDED
    assert RUNNING < ALIVE
