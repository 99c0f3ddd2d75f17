"""The normal form of a facet: what is compared, whoever reported it and in whatever order.

Two facets are the same when their normal forms have the same fingerprint. Fields marked `Noted` take no part, lists
that are sets are sorted, NUL is stripped from text (rules D1, D6).
"""

from functools import cache
from itertools import pairwise
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
import xxhash

from schemas.ownership import Owner, fields_of

S = TypeVar("S", bound=msgspec.Struct)

_SORT_KEYS = {"devices": "alias", "jobs": "id", "cells": "id", "pinning": "vcpu", "nics": "mac"}
_encode = msgspec.msgpack.Encoder().encode


@cache
def _noted(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Noted fields of a facet with the value they have in the fingerprint."""
    return {name: None for name, owner in fields_of(kind).items() if owner is Owner.NOTED}


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "") if "\0" in value else value
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {_clean(key): _clean(value[key]) for key in sorted(value)}
    if isinstance(value, msgspec.Struct):
        return normalise(value)
    return value


def normalise(facet: S) -> S:
    """The same facet with sets sorted and text cleaned; normalising twice changes nothing."""
    changes: dict[str, Any] = {}
    for name in facet.__struct_fields__:
        value = getattr(facet, name)
        if isinstance(value, str | list | dict | msgspec.Struct):
            clean = _clean(value)
            if isinstance(clean, list):
                clean = _sorted_set(name, clean)
            # Maps that differ in order alone are equal, and have different bytes.
            if clean != value or (isinstance(value, dict) and list(clean) != list(value)):
                changes[name] = clean
    return msgspec.structs.replace(facet, **changes) if changes else facet


def _sorted_set(name: str, items: list[Any]) -> list[Any]:
    key = _SORT_KEYS.get(name)
    if key is not None:
        return sorted(items, key=lambda item: (str(getattr(item, key)), _encode(item)))
    if items and all(isinstance(item, str) for item in items):
        return sorted(items)
    return items


@cache
def _containers(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """Fields whose order may need mending: lists, maps, and structs that have such fields."""
    names = []
    for name, hint in get_type_hints(kind).items():
        members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        for member in members:
            if get_origin(member) in (list, dict) or (
                isinstance(member, type) and issubclass(member, msgspec.Struct) and _containers(member)
            ):
                names.append(name)
    return tuple(names)


def _in_order(facet: msgspec.Struct) -> bool:
    """Nothing in it needs to be sorted: the usual case, which an agent that normalises makes sure of."""
    for name in _containers(type(facet)):
        value = getattr(facet, name)
        if value and not _is_sorted(name, value):
            return False
    return True


def _is_sorted(name: str, value: Any) -> bool:
    if isinstance(value, dict):
        keys = list(value)
        return all(before < after for before, after in pairwise(keys))
    if isinstance(value, msgspec.Struct):
        return _in_order(value)
    if not all(isinstance(item, str | int) or (isinstance(item, msgspec.Struct) and _in_order(item)) for item in value):
        return False
    key = _SORT_KEYS.get(name)
    if key is not None:
        keys = [str(getattr(item, key)) for item in value]
        return all(before < after for before, after in pairwise(keys))
    return not isinstance(value[0], str) or value == sorted(value)


def normal_form(facet: msgspec.Struct) -> tuple[bytes, bytes]:
    """Fingerprint and canonical bytes of the normal form; equal fingerprints may differ in `Noted` fields only."""
    value = _encode(facet)
    # A NUL in text shows as a zero byte; numbers have zero bytes as well, which then costs the long way.
    if b"\0" in value or not _in_order(facet):
        facet = normalise(facet)
        value = _encode(facet)
    noted = _noted(type(facet))
    if not noted or all(getattr(facet, name) is None for name in noted):
        return xxhash.xxh3_128_digest(value), value
    return xxhash.xxh3_128_digest(_encode(msgspec.structs.replace(facet, **noted))), value


def fingerprint(facet: msgspec.Struct) -> bytes:
    """16 bytes that are equal exactly when two facets of one kind have equal normal forms."""
    return normal_form(facet)[0]
