"""A record of vm.changes or host.changes as the verifier needs it, and the row of history that must come of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from sys import intern
from typing import Any, NamedTuple

from msgpack import packb

from tests.verifier.facets import HOST_FACETS, VM_FACETS, Marks, marks_of_bytes
from tests.verifier.records import Unreadable, hash64, raw_of, unpack_map

Belief = tuple[str, str | None, tuple[str, ...], int]
"""Availability: state, reason shown, all reasons, since (ns)."""


class Evidence(NamedTuple):
    """Where a change comes from."""

    topic: str
    log: int
    partition: int
    offset: int
    host: str | None
    boot: str | None
    seq: int | None
    tick: int | None


class Change(NamedTuple):
    """One change. `look` is all that the public sees besides facets: a change must differ in it or in a facet."""

    subject: str
    incarnation: int
    version: int
    change_id: str
    previous_digest: int
    digest: int
    observed_at: int
    detected_at: int
    cause: str
    look: tuple[Any, ...]
    """VM: status, reasons, host, ownership epoch, run, exit.
    Host: reachability, confirmed, flags, machine, boot, agent epoch."""
    belief: Belief
    """Of a VM; of a host state, reason, (), since."""
    facets: dict[str, Marks | None]
    """The changed ones; None: cleared."""
    evidence: Evidence
    managed: Mapping[str, Any] | None
    row: int
    """Hash of the history row that must come of it."""
    rules: int
    """Version of the rules by which it was made."""

    @property
    def status(self) -> str:
        """Status of a VM, reachability of a host."""
        return str(self.look[0])

    @property
    def owner(self) -> str | None:
        """Host that owns the VM."""
        host: str | None = self.look[2]
        return host


_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode


def row_hash(values: list[Any]) -> int:
    """What stands for a row of history; equal rows give equal numbers, whatever the order of keys in JSON."""
    return hash64(_encode(values).encode("utf-8", "surrogatepass"))


def signed(number: int) -> int:
    """An unsigned 64-bit number as PostgreSQL stores it."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _storable(text: str | None) -> str | None:
    """PostgreSQL holds no NUL in text."""
    return None if text is None else text.replace("\0", "")


def _shared(text: str | None) -> str | None:
    """The same object for equal texts: ids and words come again in every change."""
    return None if text is None else intern(text)


def _mask(names: Mapping[str, Any], known: tuple[str, ...]) -> int:
    return sum(1 << known.index(name) for name in names if name in known)


def _evidence(value: Mapping[str, Any]) -> Evidence:
    return Evidence(
        intern(value["topic"]), value["log"], value["partition"], value["offset"],
        _shared(value["host"]), _shared(value["boot"]), value["seq"], value.get("tick"),
    )  # fmt: skip


def _facets(value: Mapping[str, Any]) -> dict[str, Marks | None]:
    return {
        name: None if one["after"] is None else marks_of_bytes(name, packb(one["after"])) for name, one in value.items()
    }


def under(rules: int, data: bytes) -> bytes:
    """This change as if it had been made by these rules; raises Unreadable."""
    return bytes(packb({**unpack_map(data), "rules_version": rules}))


def read_vm_change(data: bytes) -> Change:
    """The change in these bytes; raises Unreadable."""
    try:
        return _vm_change(unpack_map(data))
    except (KeyError, TypeError, AttributeError, ValueError) as problem:
        raise Unreadable(f"no VmChange: {type(problem).__name__} {problem}") from problem


def _vm_change(value: dict[str, Any]) -> Change:
    raw_of(value["vm_id"])
    if value["host_id"] is not None:
        raw_of(value["host_id"])
    evidence, available = _evidence(value["evidence"]), value["availability"]
    end = value["exit"]
    exit_ = None if end is None else (end["status"], end["reason"], end.get("message"))
    ended = (None, None, None) if exit_ is None else (*exit_[:2], _storable(exit_[2]))
    state, reason, reasons = available["state"], available.get("reason"), tuple(available.get("reasons", ()))
    since = available.get("since", 0)
    managed = value.get("managed")
    row = [
        value["vm_id"], value["incarnation"], value["version"], value["detected_at"] // 1000,
        value["observed_at"] // 1000, since // 1000, value["ownership_epoch"], signed(value["previous_digest"]),
        signed(value["state_digest"]), evidence.log, evidence.offset, evidence.partition, value["rules_version"],
        _mask(value["facets"], VM_FACETS), value["cause"], value["status"], state, reason, reasons, value["host_id"],
        value["run_id"], *ended, evidence.topic, evidence.host, evidence.boot, evidence.seq,
        evidence.tick, value.get("intent_id"), value["facets"], managed,
    ]  # fmt: skip
    return Change(
        intern(value["vm_id"]), value["incarnation"], value["version"], value["change_id"], value["previous_digest"],
        value["state_digest"], value["observed_at"], value["detected_at"], intern(value["cause"]),
        (intern(value["status"]), reasons, _shared(value["host_id"]), value["ownership_epoch"],
         _shared(value["run_id"]), exit_),
        (intern(state), reason, reasons, since), _facets(value["facets"]), evidence, managed, row_hash(row),
        value["rules_version"],
    )  # fmt: skip


VM_HISTORY = (
    "vm_id", "incarnation", "version", "detected_at", "observed_at", "availability_since", "ownership_epoch",
    "previous_digest", "state_digest", "evidence_log", "evidence_offset", "evidence_partition", "rules_version",
    "facet_mask", "cause", "status", "availability", "availability_reason", "availability_reasons", "host_id", "run_id",
    "exit_status", "exit_reason", "exit_message", "evidence_topic", "evidence_host", "evidence_boot", "evidence_seq",
    "evidence_tick", "intent_id", "facets", "managed",
)  # fmt: skip
"""Columns of vm_change in the order of the hashed row."""


def read_host_change(data: bytes) -> Change:
    """The change in these bytes; raises Unreadable."""
    try:
        return _host_change(unpack_map(data))
    except (KeyError, TypeError, AttributeError, ValueError) as problem:
        raise Unreadable(f"no HostChange: {type(problem).__name__} {problem}") from problem


def _host_change(value: dict[str, Any]) -> Change:
    raw_of(value["host_id"])
    evidence, reach = _evidence(value["evidence"]), value["reachability"]
    state, reason, since = reach["state"], reach.get("reason"), reach.get("since", 0)
    agent = (value["machine_id"], value["boot_id"], value["agent_epoch"])
    row = [
        value["host_id"], value["incarnation"], value["version"], value["detected_at"] // 1000,
        value["observed_at"] // 1000, since // 1000, signed(value["previous_digest"]), signed(value["state_digest"]),
        evidence.log, evidence.offset, evidence.partition, value["rules_version"],
        _mask(value["facets"], HOST_FACETS), reach.get("mass", False), value["confirmed"], *agent, value["cause"],
        state, reason, value["flags"], evidence.topic, evidence.host, evidence.boot, evidence.seq, evidence.tick,
        value["facets"],
    ]  # fmt: skip
    return Change(
        value["host_id"], value["incarnation"], value["version"], value["change_id"], value["previous_digest"],
        value["state_digest"], value["observed_at"], value["detected_at"], value["cause"],
        (state, value["confirmed"], tuple(value["flags"]), *agent), (state, reason, (), since),
        _facets(value["facets"]), evidence, None, row_hash(row), value["rules_version"],
    )  # fmt: skip


HOST_HISTORY = (
    "host_id", "incarnation", "version", "detected_at", "observed_at", "reachability_since", "previous_digest",
    "state_digest", "evidence_log", "evidence_offset", "evidence_partition", "rules_version", "facet_mask",
    "reachability_mass", "confirmed", "machine_id", "boot_id", "agent_epoch", "cause", "reachability",
    "reachability_reason", "flags", "evidence_topic", "evidence_host", "evidence_boot", "evidence_seq", "evidence_tick",
    "facets",
)  # fmt: skip
"""Columns of host_change in the order of the hashed row."""
