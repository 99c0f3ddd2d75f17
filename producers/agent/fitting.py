"""Make a facet that is too large fit its limits, leaving a mark where something was left out.

Cutting is deterministic: the same facet is always cut in the same way, so it does not look changed.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect as shape

from schemas.facets.console import Display
from schemas.facets.devices import Device
from schemas.facets.guest import GuestNic
from schemas.facets.jobs import Job
from schemas.facets.numa import NumaCell, VcpuPin

MARK = "~truncated"
"""Name of the element that stands for what was left out; `~` sorts behind every usual name."""

_ELLIPSIS = "…"
_encode = msgspec.msgpack.Encoder().encode

_MARKS: dict[type, Callable[[str], Any]] = {
    str: lambda left_out: f"{MARK}: {left_out}",
    Device: lambda left_out: Device(device_class="truncated", alias=MARK, model=left_out),
    Display: lambda left_out: Display(type=f"{MARK}: {left_out}"),
    GuestNic: lambda left_out: GuestNic(name=f"{MARK}: {left_out}"),
    Job: lambda left_out: Job(id=MARK, state=left_out),
    NumaCell: lambda _: NumaCell(id=-1),
    VcpuPin: lambda left_out: VcpuPin(vcpu=-1, cpus=left_out),
}


@cache
def _type_of(kind: type[msgspec.Struct]) -> shape.Type:
    return shape.type_info(kind)


def clip_text(facet: msgspec.Struct) -> Any:
    """The same facet with every text cut to the length its type allows; a cut text ends in an ellipsis."""
    return _clip(facet, _type_of(type(facet)))


def cut_collections(facet: msgspec.Struct, limit_bytes: int) -> msgspec.Struct:
    """The same facet with its largest lists and maps shortened until it is no larger than the limit."""
    for _ in facet.__struct_fields__:
        excess = len(_encode(facet)) - limit_bytes
        if excess <= 0:
            break
        sizes = {name: len(_encode(value)) for name in facet.__struct_fields__ if (value := _items(facet, name))}
        if not sizes:
            break
        largest = max(sizes, key=lambda name: (sizes[name], name))
        shortened = _shorten(getattr(facet, largest), sizes[largest] - excess)
        facet = msgspec.structs.replace(facet, **{largest: shortened})
    return facet


def _items(facet: msgspec.Struct, name: str) -> list[Any] | dict[str, Any] | None:
    value = getattr(facet, name)
    return value if isinstance(value, list | dict) else None


def _shorten(items: list[Any] | dict[str, Any], limit_bytes: int) -> list[Any] | dict[str, Any]:
    """As many leading items as fit together with the mark; found by halving, since a list may be very long."""
    fits, too_many = 0, len(items)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if len(_encode(_kept(items, middle))) <= limit_bytes:
            fits = middle
        else:
            too_many = middle
    return _kept(items, fits)


def _kept(items: list[Any] | dict[str, Any], count: int) -> list[Any] | dict[str, Any]:
    left_out = f"{len(items) - count} left out"
    if isinstance(items, dict):
        return {**dict(list(items.items())[:count]), MARK: left_out}
    return [*items[:count], _MARKS[type(items[0])](left_out)]


def _clip(value: Any, kind: shape.Type) -> Any:
    if isinstance(kind, shape.UnionType):
        return _clip(value, _alternative(value, kind))
    if isinstance(value, str) and isinstance(kind, shape.StrType):
        longest = kind.max_length
        return value if longest is None or len(value) <= longest else value[: longest - 1] + _ELLIPSIS
    if isinstance(value, list) and isinstance(kind, shape.ListType):
        return [_clip(item, kind.item_type) for item in value]
    if isinstance(value, dict) and isinstance(kind, shape.DictType):
        return {_clip(key, kind.key_type): _clip(item, kind.value_type) for key, item in value.items()}
    if isinstance(value, msgspec.Struct) and isinstance(kind, shape.StructType):
        clipped = {field.name: _clip(getattr(value, field.name), field.type) for field in kind.fields}
        return msgspec.structs.replace(value, **clipped)
    return value


def _alternative(value: Any, union: shape.UnionType) -> shape.Type:
    """The member of an optional type that this value belongs to."""
    return (
        next((kind for kind in union.types if not isinstance(kind, shape.NoneType)), union.types[0])
        if (value is not None)
        else shape.NoneType()
    )
