"""Facets as they travel: canonical, bounded, and unchanged when only what is noted differs."""

from __future__ import annotations

import msgspec
import pytest

from producers.agent.fitting import MARK
from producers.agent.rendering import Rendered, UnfitFacet, parse, render
from schemas.facets import FACET_LIMIT_BYTES
from schemas.facets.devices import Device, Devices
from schemas.facets.guest import Guest, GuestNic
from schemas.facets.identity import Identity
from schemas.facets.numa import Numa, NumaCell, VcpuPin
from schemas.facets.run import Run
from schemas.status import Status


def rendered(facet: msgspec.Struct) -> Rendered:
    found = render(facet)
    assert found is not None
    return found


def test_equal_value_gives_equal_bytes_whatever_the_order() -> None:
    one = Devices(devices=[Device(device_class="disk", alias="b"), Device(device_class="disk", alias="a")])
    other = Devices(devices=[Device(device_class="disk", alias="a"), Device(device_class="disk", alias="b")])
    assert rendered(one) == rendered(other)
    assert rendered(Identity(tags={"x": "1", "a": "2"})) == rendered(Identity(tags={"a": "2", "x": "1"}))


def test_nothing_is_rendered_when_only_noted_fields_differ() -> None:
    last = rendered(Run(status=Status.UP, since=1, started_at=2))
    assert render(Run(status=Status.UP, since=5), last) is None
    assert render(Run(status=Status.PAUSED, since=1, started_at=2), last) is not None


def test_nul_is_stripped() -> None:
    facet = parse(rendered(Identity(name="a\0b")).data, Identity)
    assert facet == Identity(name="ab")


def test_long_text_is_cut_to_what_a_reader_takes() -> None:
    facet = parse(rendered(Identity(name="n" * 300, tags={"k": "v" * 5000})).data, Identity)
    assert isinstance(facet, Identity)
    assert facet.name == "n" * 254 + "…"
    assert len(facet.tags["k"]) == 4096


@pytest.mark.parametrize(
    "facet",
    [
        Identity(tags={f"key-{number:05d}": "v" * 50 for number in range(3000)}),
        Guest(users=[f"user-{number:06d}" for number in range(20_000)]),
        Guest(nics=[GuestNic(mac=f"{number:012x}", ipv6=[f"fd00::{number:x}"]) for number in range(5000)]),
        Guest(nics=[GuestNic(mac="1", ipv6=[f"fd00::{number:x}" for number in range(50_000)])]),
        Devices(
            devices=[Device(device_class="disk", alias=f"d{number:05d}", serial="s" * 90) for number in range(2000)]
        ),
        Numa(
            cells=[NumaCell(id=number, vcpus=list(range(40))) for number in range(1500)],
            pinning=[VcpuPin(vcpu=number, cpus="0-127") for number in range(6000)],
        ),
    ],
    ids=lambda facet: type(facet).__name__,
)
def test_what_is_too_large_is_cut_and_marked(facet: msgspec.Struct) -> None:
    assert len(msgspec.msgpack.encode(facet)) > FACET_LIMIT_BYTES
    cut = rendered(facet)
    assert FACET_LIMIT_BYTES // 3 < len(cut.data) <= FACET_LIMIT_BYTES or isinstance(facet, Guest)
    assert len(cut.data) <= FACET_LIMIT_BYTES
    assert MARK.encode() in cut.data or b"\xa2id\xff" in cut.data
    assert rendered(facet) == cut
    assert render(facet, cut) is None


def test_a_facet_no_reader_could_take_is_refused() -> None:
    broken = msgspec.structs.replace(Identity(name="a"), vcpus="two")
    with pytest.raises(UnfitFacet, match="Identity"):
        render(broken)
