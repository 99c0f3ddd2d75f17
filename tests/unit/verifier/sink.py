"""The tables that a tiny line's changes must lead to, written by hand."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.unit.verifier.world import FACETS, PARTITIONS, World, home_of, text_id

_RUN = (
    "status", "reason", "since", "process_id", "started_at", "exit_status", "exit_reason", "exit_message",
    "pause_reason", "pause_errno", "migration",
)  # fmt: skip
_EMPTY: dict[str, dict[str, Any]] = {
    "identity": dict.fromkeys(
        ("name", "cluster", "vcpus", "vcpus_max", "memory_bytes", "memory_max_bytes", "machine", "persistent")
    )
    | {"tags": {}},
    "guest": dict.fromkeys(("agent_connected", "fqdn", "os", "timezone", "session", "ips_as_of"))
    | {"users": [], "nics": [], "stale": False},
}


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


def fill(world: World) -> None:
    """Write every table anew."""
    tables = world.database.tables = {}
    tables["sink_position"] = [
        {"topic": topic, "part": part, "epoch": 1, "next_offset": len(log), "topic_id": "-"}
        for topic in ("vm.changes", "host.changes")
        for part, log in enumerate(world.logs.topics[topic])
    ]
    tables["vm_change"] = [_vm_history(value) for value in world.history]
    tables["host_change"] = [_host_history(value) for value in world.host_history]
    tables["vm"] = [_vm_row(world, name) for name in world.vms]
    for facet in FACETS:
        if facet != "run":
            tables[f"vm_{facet}"] = _facet_rows(world, facet)
    tables["host"] = [_host_row(value) for value in world.hosts.values()]
    counted = Counter(
        (home_of(name), row["status"], row["availability"]) for name, row in zip(world.vms, tables["vm"], strict=True)
    )
    tables["fleet_count"] = [
        {"part": part, "status": status, "availability": availability, "n": n}
        for (part, status, availability), n in counted.items()
    ]
    assert all(part < PARTITIONS for part, _, _ in counted)


def _frame(value: dict[str, Any]) -> dict[str, Any]:
    evidence = value["evidence"]
    return {
        "incarnation": value["incarnation"], "version": value["version"], "detected_at": value["detected_at"] // 1000,
        "observed_at": value["observed_at"] // 1000, "previous_digest": _signed(value["previous_digest"]),
        "state_digest": _signed(value["state_digest"]), "evidence_log": evidence["log"],
        "evidence_offset": evidence["offset"], "evidence_partition": evidence["partition"], "rules_version": 1,
        "cause": value["cause"], "evidence_topic": evidence["topic"], "evidence_host": evidence["host"],
        "evidence_boot": evidence["boot"], "evidence_seq": evidence["seq"], "evidence_tick": None,
        "facets": value["facets"],
    }  # fmt: skip


def _belief(value: dict[str, Any]) -> dict[str, Any]:
    available = value["availability"]
    return {
        "availability": available["state"], "availability_reason": available.get("reason"),
        "availability_reasons": list(available.get("reasons", [])), "availability_since": available["since"] // 1000,
    }  # fmt: skip


def _vm_history(value: dict[str, Any]) -> dict[str, Any]:
    return _frame(value) | _belief(value) | {
        "vm_id": value["vm_id"], "ownership_epoch": value["ownership_epoch"],
        "facet_mask": sum(1 << FACETS.index(name) for name in value["facets"]), "status": value["status"],
        "host_id": value["host_id"], "run_id": value["run_id"], "exit_status": None, "exit_reason": None,
        "exit_message": None, "intent_id": None, "managed": None,
    }  # fmt: skip


def _reach(value: dict[str, Any]) -> dict[str, Any]:
    reach = value["reachability"]
    return {
        "reachability": reach["state"], "reachability_reason": reach.get("reason"),
        "reachability_since": reach["since"] // 1000, "reachability_mass": False, "confirmed": value["confirmed"],
        "flags": value["flags"], "machine_id": value["machine_id"], "boot_id": value["boot_id"],
        "agent_epoch": value["agent_epoch"],
    }  # fmt: skip


def _host_history(value: dict[str, Any]) -> dict[str, Any]:
    return _frame(value) | _reach(value) | {"host_id": value["host_id"], "facet_mask": 0}


def _host_row(value: dict[str, Any]) -> dict[str, Any]:
    return _reach(value) | {
        "host_id": value["host_id"], "incarnation": value["incarnation"], "version": value["version"],
        "digest": _signed(value["state_digest"]), "cause": value["cause"], "observed_at": value["observed_at"] // 1000,
        "detected_at": value["detected_at"] // 1000,
    }  # fmt: skip


def _vm_row(world: World, name: str) -> dict[str, Any]:
    last = next(value for value in reversed(world.history) if value["vm_id"] == text_id(name))
    run = world.vms[name].shown.get("run", {})
    return _belief(last) | {f"run_{field}": run.get(field) for field in _RUN} | {
        "vm_id": last["vm_id"], "incarnation": last["incarnation"], "version": last["version"],
        "digest": _signed(last["state_digest"]), "status": last["status"], "host_id": last["host_id"],
        "ownership_epoch": last["ownership_epoch"], "run_id": last["run_id"], "exit_status": None, "exit_reason": None,
        "exit_message": None, "cause": last["cause"], "observed_at": last["observed_at"] // 1000,
        "detected_at": last["detected_at"] // 1000,
    }  # fmt: skip


def _facet_rows(world: World, facet: str) -> list[dict[str, Any]]:
    return [
        {"vm_id": text_id(name), "changed_at": life.changed_at[facet] // 1000} | _EMPTY[facet] | life.shown[facet]
        for name, life in world.vms.items()
        if facet in life.shown
    ]
