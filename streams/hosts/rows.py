"""Rows of the hosts table: what a seal writes, and what they are when they come back."""

from collections.abc import Iterable

from schemas.codec import encode, header_of
from schemas.host_rows import PARTITION_KEY, HostRow, PartitionRow, VmRow
from schemas.ids import HostId, VmId, key_of, uuid_text
from streams.hosts.state import NO_MARKS, Host, VmMarks
from streams.runtime.stage import Row

SEPARATOR = b"/"
ID_TEXT_BYTES = 36
HOST_HEADER = header_of(HostRow)
VM_HEADER = header_of(VmRow)
PARTITION_HEADER = header_of(PartitionRow)


def rows_of(hosts: Iterable[Host], partition: PartitionRow) -> list[Row]:
    """Rows of these hosts and of the VMs that changed: details first, the partition last. Changes nothing."""
    details: list[Row] = []
    heads: list[Row] = []
    for host in hosts:
        details += _vm_rows(host)
        heads.append(Row(host.key, encode(host.row), HOST_HEADER))
    heads.append(Row(PARTITION_KEY, encode(partition), PARTITION_HEADER))
    return details + heads


def _vm_rows(host: Host) -> list[Row]:
    prefix = host.key + SEPARATOR
    found: list[Row] = []
    for vm_id, applied in host.dirty_vms.items():
        vm = host.vms.get(vm_id)
        if vm is None:
            found.append(Row(prefix + key_of(vm_id), None, None))
        else:
            row = VmRow(applied=applied, partition=vm.partition, marks=vm.marks, rejected=vm.rejected or {})
            found.append(Row(prefix + key_of(vm_id), encode(row), VM_HEADER))
    return found


def ids_of(key: bytes) -> tuple[HostId, VmId | None]:
    """Host and VM that a row's key names; raises ValueError when it names none."""
    host, _, vm = key.partition(SEPARATOR)
    return HostId(_id_of(host)), VmId(_id_of(vm)) if vm else None


def marks_of(row: VmRow) -> VmMarks:
    """The row in memory; marks of a version that knew fewer facets are filled up."""
    return VmMarks(row.partition, row.marks + NO_MARKS[len(row.marks) :], row.rejected or None)


def _id_of(text: bytes) -> bytes:
    raw = bytes.fromhex(text.decode("ascii").replace("-", ""))
    if uuid_text(raw).encode("ascii") != text:
        raise ValueError(f"{text!r} is no id")
    return raw
