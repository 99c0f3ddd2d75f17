"""The normal form of a facet: what is compared, whoever reported it and in whatever order.

Two facets are the same when their normal forms have the same fingerprint. Fields marked `Noted` take no part, lists
that are sets are sorted, NUL is stripped from text (rules D1, D6).
"""

from collections.abc import Callable, Sequence
from functools import cache
from operator import attrgetter, lt
from types import UnionType
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
import xxhash
from msgspec.structs import replace

from schemas.ownership import Owner, fields_of

S = TypeVar("S", bound=msgspec.Struct)

_SORT_KEYS = {"devices": "alias", "jobs": "id", "cells": "id", "pinning": "vcpu", "nics": "mac"}
_encode = msgspec.msgpack.Encoder().encode
_encode_json = msgspec.json.Encoder().encode
_JSON_NUL = b"\\u0000"


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
    return replace(facet, **changes) if changes else facet


def _sorted_set(name: str, items: list[Any]) -> list[Any]:
    key = _SORT_KEYS.get(name)
    if key is not None:
        return sorted(items, key=lambda item: (str(getattr(item, key)), _encode(item)))
    if items and all(isinstance(item, str) for item in items):
        return sorted(items)
    return items


Check = Callable[[Any], bool]
"""Nothing in this value needs to be sorted."""


class _Plan(NamedTuple):
    """What the normal form of a facet type takes, found out once."""

    noted: dict[str, None]
    """Noted fields, with the value they have in the fingerprint."""
    in_order: Check | None
    """None when there is nothing to sort in this type."""


@cache
def _plan_of(kind: type[msgspec.Struct]) -> _Plan:
    noted = dict.fromkeys(name for name, owner in fields_of(kind).items() if owner is Owner.NOTED)
    checks = []
    for name, hint in get_type_hints(kind).items():
        for member in get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,):
            check = _check_of(name, member)
            if check is not None:
                checks.append((attrgetter(name), check))
    return _Plan(noted, _fields_in_order(checks) if checks else None)


def _fields_in_order(checks: Sequence[tuple[Callable[[Any], Any], Check]]) -> Check:
    def check(facet: msgspec.Struct) -> bool:
        for read, in_order in checks:
            value = read(facet)
            if value and not in_order(value):
                return False
        return True

    return check


def _check_of(name: str, hint: Any) -> Check | None:
    """How to look at values of this type; None when there is nothing to look at."""
    origin = get_origin(hint)
    if origin is dict:
        return _keys_in_order
    if origin is list:
        (item,) = get_args(hint)
        return _items_in_order(_SORT_KEYS.get(name), item)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _plan_of(hint).in_order
    return None


def _items_in_order(key: str | None, item: Any) -> Check:
    """For lists: of structs by their key where they are sets, of texts by themselves, all else as it comes."""
    is_struct = isinstance(item, type) and issubclass(item, msgspec.Struct)
    if not is_struct and item not in (str, int):
        return _never
    within = _plan_of(item).in_order if is_struct else None
    key_of = None if key is None else attrgetter(key)

    def check(items: list[Any]) -> bool:
        if within is not None and not all(map(within, items)):
            return False
        if len(items) < 2:
            return True
        if key_of is None:
            return item is not str or items == sorted(items)
        keys = list(map(str, map(key_of, items)))
        return all(map(lt, keys, keys[1:]))

    return check


def _never(value: Any) -> bool:
    return False


def _keys_in_order(value: dict[str, Any]) -> bool:
    keys = list(value)
    return all(map(lt, keys, keys[1:]))


def normalised(facet: S) -> tuple[S, bytes, bytes]:
    """A facet's normal form: itself, its fingerprint, its canonical bytes.

    Facets with equal fingerprints may differ in `Noted` fields only.
    """
    noted, in_order = _plan_of(type(facet))
    value = _encode(facet)
    compared = _encode(replace(facet, **noted)) if noted else value
    # What is in order already, and has no NUL, is its own normal form. A NUL in text shows as a zero byte; numbers have
    # zero bytes as well, so a second look is needed then: JSON spells numbers out, and NUL in its own way.
    has_nul = b"\0" in compared and _JSON_NUL in _encode_json(facet)
    if has_nul or (in_order is not None and not in_order(facet)):
        facet = normalise(facet)
        value = _encode(facet)
        compared = _encode(replace(facet, **noted)) if noted else value
    return facet, xxhash.xxh3_128_digest(compared), value


def normal_form(facet: msgspec.Struct) -> tuple[bytes, bytes]:
    """Fingerprint and canonical bytes of the normal form."""
    return normalised(facet)[1:]


def fingerprint(facet: msgspec.Struct) -> bytes:
    """16 bytes that are equal exactly when two facets of one kind have equal normal forms."""
    return normal_form(facet)[0]
