"""Facets as maps: which fields they have, when two are equal, and what a host leaves unsaid.

The field tables restate docs/schemas by hand, on purpose: a field that is dropped by mistake would otherwise be
missing on both sides of the comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgpack

from tests.verifier.records import hash64, unpack_map

Map = Mapping[str, Any]

FIELDS: dict[str, dict[str, Any]] = {
    "identity": {"name": None, "cluster": None, "tags": {}, "vcpus": None, "vcpus_max": None, "memory_bytes": None,
                 "memory_max_bytes": None, "machine": None, "persistent": None},
    "run": {"status": None, "reason": None, "since": None, "process_id": None, "started_at": None, "exit_status": None,
            "exit_reason": None, "exit_message": None, "pause_reason": None, "pause_errno": None, "migration": None},
    "guest": {"agent_connected": None, "fqdn": None, "os": None, "timezone": None, "session": None, "users": [],
              "nics": [], "ips_as_of": None, "stale": False},
    "console": {"displays": [], "client_ip": None, "client_since": None},
    "devices": {"devices": []},
    "jobs": {"jobs": []},
    "numa": {"cells": [], "pinning": []},
    "watchdog": {"last_at": None, "action": None},
    "host_system": {"hostname": None, "os": None, "kernel": None, "hypervisor": None, "libvirt_version": None,
                    "agent_version": None},
    "host_capacity": {"cpu_model": None, "cpus": None, "cpu_sockets": None, "memory_bytes": None},
    "host_reachability": {"source_connected": None, "reason": None, "since": None},
}  # fmt: skip
"""Fields with the value that they have when a host does not say them."""

VM_FACETS = ("identity", "run", "guest", "console", "devices", "jobs", "numa", "watchdog")
HOST_FACETS = ("host_system", "host_capacity", "host_reachability")
FACET_LIMIT_BYTES = 65_536

NOTED: dict[str, tuple[str, ...]] = {
    "run": ("since", "started_at"),
    "guest": ("ips_as_of",),
    "console": ("client_since",),
    "host_reachability": ("since",),
}
"""Fields whose difference alone is no change."""

_SORTED_BY = {"devices": "alias", "jobs": "id", "cells": "id", "pinning": "vcpu", "nics": "mac"}
_DEFAULTS_BELOW: dict[str, Any] = {"plugged": True}
"""Of maps inside lists: every other field is left out when it is None or empty."""
ENDS_WITH_RUN = frozenset({"guest", "console", "jobs", "numa"})
OUTLIVES_CLAIM = frozenset({"identity", "devices"})
ALIVE = frozenset(
    {"up", "powering_up", "powering_down", "rebooting", "migrating_from", "migrating_to", "not_responding",
     "starting", "paused", "saving", "restoring"}
)  # fmt: skip
ENDED = frozenset({"down", "suspended", "crashed", "removed"})


class Marks(NamedTuple):
    """A facet value as two numbers: what decides whether it changed, and the value with every field in it."""

    normal: int
    exact: int
    """Times in whole microseconds, which is what a table can hold."""


def _clean(value: Any) -> Any:
    """Text without NUL, maps by key, defaults of inner maps left out."""
    kind = type(value)
    if kind is str:
        return value.replace("\0", "") if "\0" in value else value
    if kind is dict:
        return {
            _clean(name): inner if type(inner) is int else _set(str(name), inner)
            for name, inner in sorted(value.items())
            if inner is not None and inner != [] and not (name in _DEFAULTS_BELOW and inner == _DEFAULTS_BELOW[name])
        }
    return [_clean(item) for item in value] if kind is list else value


def _set(name: str, value: Any) -> Any:
    """Lists that are sets are compared sorted."""
    clean = _clean(value)
    if type(clean) is list and len(clean) > 1:
        key = _SORTED_BY.get(name)
        if key is not None and all(type(item) is dict for item in clean):
            return sorted(clean, key=lambda item: (str(item.get(key)), msgpack.packb(item)))
        if all(type(item) is str for item in clean):
            return sorted(clean)
    return clean


def normalised(facet: str, value: Map) -> dict[str, Any]:
    """Fields that say something, in a form in which equal facets are equal."""
    fields = FIELDS.get(facet)
    if fields is None:
        return {name: _set(name, value[name]) for name in sorted(value)}
    found: dict[str, Any] = {}
    for name, default in fields.items():
        said = value.get(name, default)
        if said is None or said == default:
            continue
        kind = type(said)
        if kind is int or kind is bool:
            found[name] = said
        elif kind is str:
            found[name] = said.replace("\0", "") if "\0" in said else said
        else:
            clean = dict(sorted(said.items())) if name == "tags" else _set(name, said)
            found[name] = {_clean(k): _clean(v) for k, v in clean.items()} if name == "tags" else clean
    return found


def marks_of(facet: str, value: Map) -> Marks:
    """The two numbers of a facet."""
    form = normalised(facet, value)
    noted = [name for name in NOTED.get(facet, ()) if name in form]
    if not noted:
        exact = hash64(msgpack.packb(form))
        return Marks(exact, exact)
    for name in noted:
        form[name] //= 1000
    exact = hash64(msgpack.packb(form))
    for name in noted:
        del form[name]
    return Marks(hash64(msgpack.packb(form)), exact)


_KEPT_MARKS = 100_000
_marks_of_bytes: dict[tuple[str, int], Marks] = {}


def marks_of_bytes(facet: str, data: bytes) -> Marks:
    """The two numbers of a packed facet; raises Unreadable.

    A facet passes the line in the same bytes several times, so the newest answers are kept.
    """
    key = (facet, hash64(data))
    known = _marks_of_bytes.get(key)
    if known is None:
        if len(_marks_of_bytes) >= _KEPT_MARKS:
            _marks_of_bytes.clear()
        known = _marks_of_bytes[key] = marks_of(facet, unpack_map(data))
    return known


_GUEST_ANSWERS = ("fqdn", "os", "timezone", "session", "users", "nics", "ips_as_of")


def completed(facet: str, before: Map, now: Map) -> Map:
    """What the same process of a VM is known to be when an agent says less than before (rules A4, D4)."""
    if facet == "identity":
        kept = {name: before[name] for name in FIELDS[facet] if now.get(name) is None and before.get(name) is not None}
        kept.pop("tags", None)
    elif facet == "run":
        if now.get("status") not in ALIVE or before.get("status") not in ALIVE:
            return now
        names = ("process_id", "started_at")
        kept = {name: before[name] for name in names if now.get(name) is None and before.get(name) is not None}
    elif facet == "guest" and not now.get("agent_connected"):
        kept = {name: before[name] for name in _GUEST_ANSWERS if not now.get(name) and before.get(name)}
        if kept:
            kept["stale"] = True
    else:
        return now
    return {**now, **kept} if kept else now
