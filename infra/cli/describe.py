"""One line of text per record, for people who watch a topic."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from schemas.codec import Record
from schemas.host_change import HostChange, HostState
from schemas.ids import uuid_text
from schemas.intent import Intent, IntentCopy
from schemas.observation import ObservationBatch
from schemas.report import Changes, HostReport, SnapshotPart
from schemas.resync import ResyncRequest
from schemas.tick import Tick
from schemas.vm_change import VmChange
from schemas.vm_state import VmFacet, VmHead


def clock(nanoseconds: int) -> str:
    """Time of day of an int64 UTC ns, to the millisecond."""
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC).strftime("%H:%M:%S.%f")[:-3]


def describe(record: Record) -> str:
    """What a person wants to see of a record, in one line."""
    match record:
        case VmChange():
            return _vm_change(record)
        case VmHead():
            return f"v{record.version} {record.status} {record.availability.state} on {record.host_id or '-'}"
        case VmFacet():
            return f"v{record.version} {len(record.value)} bytes"
        case HostChange():
            words = [
                f"v{record.version}",
                record.cause,
                record.reachability.state,
                *sorted(record.facets),
                *record.flags,
            ]
            return " ".join(words)
        case HostState():
            heard = clock(record.last_report_at)
            return f"v{record.version} {record.reachability.state} {record.vm_count} VMs, heard {heard}"
        case HostReport():
            return _report(record)
        case Tick():
            return f"tick {record.n}"
        case ResyncRequest():
            return f"{record.asker} asks for a {'forced ' if record.force else ''}snapshot: {record.reason}"
        case Intent():
            return f"{record.by} wants {record.op} of {record.vm_id[:8]}"
        case IntentCopy():
            return f"copy of intent {record.offset}"
        case ObservationBatch():
            vms = sum(len(report.vms) for report in record.reports)
            return f"from partition {record.source} at tick {record.tick}: {len(record.reports)} reports, {vms} VMs"
        case _:
            return type(record).__name__


def _vm_change(change: VmChange) -> str:
    doubt = "" if change.availability.reason is None else f"/{change.availability.reason}"
    facets = ", ".join(f"{name}({' '.join(facet.changed)})" for name, facet in sorted(change.facets.items()))
    ended = "" if change.exit is None else f" exit {change.exit.status}/{change.exit.reason}"
    return (
        f"v{change.version} {change.cause} {change.status} {change.availability.state}{doubt} "
        f"on {change.host_id or '-'}{ended} {facets}"
    ).rstrip()


def _report(report: HostReport) -> str:
    head = f"{uuid_text(report.host_id)[:8]} seq {report.seq} {report.vm_count} VMs"
    match report.body:
        case Changes() as body if body == Changes():
            return f"{head} heartbeat"
        case Changes() as body:
            return f"{head} {len(body.vms)} changed, {len(body.gone)} gone"
        case SnapshotPart() as body:
            return f"{head} snapshot {body.part}/{body.parts} with {len(body.vms)} VMs"
        case body:
            return f"{head} farewell {body.reason}"


def as_json(record: Record) -> bytes:
    """The whole record as one line of JSON; 16-byte strings are ids and become text, other bytes base64."""
    return msgspec.json.encode(_plain(msgspec.msgpack.decode(msgspec.msgpack.encode(record))))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return uuid_text(value) if len(value) == 16 else base64.b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
