"""The trust boundary: the bytes of an agent become a HostReport, or a RecordError that says what is wrong.

Agents may write anything to `host.reports`. Whatever passes here has ids of 16 bytes, names nobody twice, and numbers
that every other record can hold; facets stay opaque.
"""

from collections.abc import Iterable

from schemas.codec import RecordError, decode, guard
from schemas.fingerprints import U64
from schemas.ids import key_of, partition_of
from schemas.report import MAX_VMS_PER_REPORT, Changes, HostReport, SnapshotPart, VmFacets
from streams.runtime.stage import Input

MAX_SNAPSHOT_PARTS = 65_536
_I64 = (1 << 63) - 1


def read_report(record: Input) -> HostReport:
    """The report in this record; raises RecordError, and NewerMajorError for another major."""
    guard(record.value)
    report = decode(HostReport, record.value, record.schema)
    _check_envelope(report)
    body = report.body
    if isinstance(body, SnapshotPart):
        _check_vms(body.vms)
        _check_part(body)
    elif isinstance(body, Changes):
        _check_vms(body.vms)
        if body.gone:
            _check_ids("body.gone", [gone.vm_id for gone in body.gone])
    return report


def check_key(record: Input, report: HostReport, partitions: int) -> None:
    """A host speaks for itself, in its own partition (asked once per host)."""
    key = key_of(report.host_id)
    if record.key != key:
        raise RecordError(f"the key is {record.key!r:.80}, the report is of host {key.decode()}")
    home = partition_of(key, partitions)
    if home != record.partition:
        raise RecordError(f"host {key.decode()} belongs to partition {home} of {partitions}")


def _check_envelope(report: HostReport) -> None:
    for name in ("host_id", "machine_id", "boot_id", "agent_epoch"):
        if len(getattr(report, name)) != 16:
            raise RecordError(f"{name}: an id has 16 bytes, this one has {len(getattr(report, name))}")
    if not 1 <= report.seq <= _I64:
        raise RecordError(f"seq: {report.seq} is not a number from 1")
    if not (0 <= report.observed_at <= _I64 and 0 <= report.sent_at <= _I64):
        raise RecordError("observed_at, sent_at: not nanoseconds since 1970")
    if not (0 <= report.vm_count <= _I64 and 0 <= report.digest <= U64):
        raise RecordError("vm_count, digest: not unsigned numbers")


def _check_vms(vms: list[VmFacets]) -> None:
    if vms:
        if len(vms) > MAX_VMS_PER_REPORT:
            raise RecordError(f"body.vms: {len(vms)} VMs, a report has at most {MAX_VMS_PER_REPORT}")
        _check_ids("body.vms", [vm.vm_id for vm in vms])


def _check_part(part: SnapshotPart) -> None:
    if not 1 <= part.part <= part.parts <= MAX_SNAPSHOT_PARTS:
        raise RecordError(f"body.part: {part.part} of {part.parts}")
    if len(part.snapshot_id) != 16:
        raise RecordError("body.snapshot_id: an id has 16 bytes")
    if (part.inventory is not None) != (part.part == part.parts):
        raise RecordError(f"body.inventory: belongs into the last part only, this is {part.part} of {part.parts}")
    if part.inventory is not None:
        _check_ids("body.inventory", part.inventory)
        if not {vm.vm_id for vm in part.vms}.issubset(part.inventory):
            raise RecordError("body.inventory: lacks a VM of the same part")


def _check_ids(path: str, ids: Iterable[bytes]) -> None:
    known = set(ids)
    if any(len(one) != 16 for one in known):
        raise RecordError(f"{path}: an id has 16 bytes")
    if len(known) != len(list(ids)):
        raise RecordError(f"{path}: names a VM twice")
