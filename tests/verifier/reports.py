"""The raw log `host.reports`: records of agents and ticks, checked as a trust boundary must.

Not shared with the stages: what a record must be is restated here from docs/schemas and rule A5; faults M5, M7.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.verifier.logs import Message
from tests.verifier.records import REPORT_LIMIT_BYTES, U64, Unreadable, partition_of, text_of, unpack_map

TICK_KEY = b"#tick"
_I64 = (1 << 63) - 1
_IDS = ("host_id", "machine_id", "boot_id", "agent_epoch")
_NUMBERS = (
    "seq", "observed_at", "observed_monotonic_ns", "sent_at", "sent_monotonic_ns", "vm_count", "digest",
)  # fmt: skip
_REASONS = frozenset({"undefined", "transient_ended", "migrated", "absent"})
_MOST_VMS = 4096
_MOST_PARTS = 65_536

Facets = dict[str, bytes]


class Tick(NamedTuple):
    """A tick of one partition."""

    n: int
    owner: bytes


class HostReport(NamedTuple):
    """One statement of an agent."""

    host: bytes
    machine: bytes
    boot: bytes
    epoch: bytes
    seq: int
    observed_at: int
    kind: str
    vms: list[tuple[bytes, Facets]]
    gone: list[tuple[bytes, str]]
    host_facets: Facets
    snapshot: bytes = b""
    part: int = 0
    parts: int = 0
    force: bool = False
    answers: bool = False
    inventory: list[bytes] | None = None


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise Unreadable(what)


def _bytes_by_name(value: Any, what: str) -> Facets:
    _need(isinstance(value, dict), f"{what} is no map")
    _need(all(isinstance(k, str) and isinstance(v, bytes) for k, v in value.items()), f"{what}: names to bytes")
    found: Facets = value
    return found


def _ids(values: Any, what: str) -> list[bytes]:
    _need(isinstance(values, list), f"{what} is no list")
    _need(all(isinstance(one, bytes) and len(one) == 16 for one in values), f"{what}: ids have 16 bytes")
    _need(len(set(values)) == len(values), f"{what} names a VM twice")
    found: list[bytes] = values
    return found


def _vms(body: dict[str, Any]) -> list[tuple[bytes, Facets]]:
    vms = body.get("vms", [])
    _need(isinstance(vms, list) and all(isinstance(vm, dict) for vm in vms), "body.vms: a list of maps")
    _need(len(vms) <= _MOST_VMS, f"body.vms: {len(vms)} VMs")
    _ids([vm.get("vm_id") for vm in vms], "body.vms")
    return [(vm["vm_id"], _bytes_by_name(vm.get("facets"), "body.vms.facets")) for vm in vms]


def _gone(body: dict[str, Any]) -> list[tuple[bytes, str]]:
    gone = body.get("gone", [])
    _need(isinstance(gone, list) and all(isinstance(one, dict) for one in gone), "body.gone: a list of maps")
    _ids([one.get("vm_id") for one in gone], "body.gone")
    _need(all(one.get("reason") in _REASONS for one in gone), "body.gone: unknown reason")
    return [(one["vm_id"], one["reason"]) for one in gone]


def read_report(message: Message) -> HostReport:
    """The report in a record; raises Unreadable."""
    data = message.value or b""
    _need(len(data) <= REPORT_LIMIT_BYTES, f"{len(data)} bytes")
    _need(message.headers.get("schema", b"").startswith(b"HostReport/1."), "the schema header is not HostReport/1")
    value = unpack_map(data)
    for name in _IDS:
        _need(isinstance(value.get(name), bytes) and len(value[name]) == 16, f"{name} is no id")
    for name in _NUMBERS:
        _need(type(value.get(name)) is int, f"{name} is no number")
    _need(1 <= value["seq"] <= _I64, "seq")
    _need(0 <= value["observed_at"] <= _I64 and 0 <= value["sent_at"] <= _I64, "times")
    _need(0 <= value["vm_count"] <= _I64 and 0 <= value["digest"] <= U64, "vm_count, digest")
    body = value.get("body")
    if not isinstance(body, dict):
        raise Unreadable("body is no map")
    ids = [value[name] for name in _IDS]
    return _with_body((ids[0], ids[1], ids[2], ids[3], value["seq"], value["observed_at"]), body)


Head = tuple[bytes, bytes, bytes, bytes, int, int]


def _with_body(head: Head, body: dict[str, Any]) -> HostReport:
    kind = body.get("kind")
    if kind == "changes":
        _bytes_by_name(body.get("storage", {}), "body.storage")
        host = _bytes_by_name(body.get("host", {}), "body.host")
        return HostReport(*head, "changes", _vms(body), _gone(body), host)
    if kind == "farewell":
        _need(isinstance(body.get("reason", ""), str), "body.reason")
        return HostReport(*head, "farewell", [], [], {})
    _need(kind == "snapshot", f"body.kind is {kind!r:.40}")
    return _snapshot(head, body)


def _snapshot(head: Head, body: dict[str, Any]) -> HostReport:
    part: Any = body.get("part")
    parts: Any = body.get("parts")
    snapshot: Any = body.get("snapshot_id")
    _need(type(part) is int and type(parts) is int and 1 <= part <= parts <= _MOST_PARTS, "body.part")
    _need(isinstance(snapshot, bytes) and len(snapshot) == 16, "body.snapshot_id")
    inventory = body.get("inventory")
    _need((inventory is not None) == (part == parts), "body.inventory belongs into the last part")
    vms = _vms(body)
    if inventory is not None:
        _need({vm for vm, _ in vms} <= set(_ids(inventory, "body.inventory")), "body.inventory lacks a VM of the part")
    answers = body.get("answers", [])
    _need(isinstance(answers, list), "body.answers")
    host = _bytes_by_name(body.get("host", {}), "body.host")
    _bytes_by_name(body.get("storage", {}), "body.storage")
    return HostReport(
        *head,
        kind="snapshot",
        vms=vms,
        gone=[],
        host_facets=host,
        snapshot=snapshot,
        part=part,
        parts=parts,
        force=bool(body.get("force", False)),
        answers=bool(answers),
        inventory=inventory,
    )


def read_tick(message: Message) -> Tick:
    """The tick in a record; raises Unreadable. Its signature is the stage's matter."""
    data = message.value or b""
    _need(len(data) <= 512, "too long for a tick")
    _need(message.headers.get("schema", b"").startswith(b"Tick/1."), "the schema header is not Tick/1")
    value = unpack_map(data)
    n, owner = value.get("n"), value.get("owner")
    _need(type(n) is int and n >= 1, "n")
    _need(isinstance(owner, bytes) and len(owner) == 16, "owner")
    return Tick(n if isinstance(n, int) else 0, owner if isinstance(owner, bytes) else b"")


def check_home(message: Message, report: HostReport, partition: int, partitions: int) -> None:
    """A host speaks for itself and in its own partition (fault M7); raises Unreadable."""
    key = text_of(report.host).encode()
    _need(message.key == key, f"the key is {message.key!r:.60}, the report is of {key.decode()}")
    _need(partition_of(key, partitions) == partition, "the host belongs to another partition")
