"""The domains of the test daemon, and the few bytes of guest that some of them run."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from uuid import UUID

from schemas.ids import VmId

_DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>16</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <on_crash>destroy</on_crash>
  <devices>{devices}<memballoon model='none'/></devices>
</domain>
"""

_SECTOR_BYTES = 512
IMAGE_BYTES = 1 << 20
_HALT = bytes.fromhex("f4ebfd")  # hlt; jmp to it


class Guest(Enum):
    """What runs in a domain: 16-bit code of its boot sector, None for no disk at all."""

    NONE = None
    POWERS_OFF = bytes.fromhex("ba0406 b80020 ef") + _HALT
    """out 0x2000 to port 0x604: ACPI's soft off of the `pc` machine."""
    PANICS = bytes.fromhex("ba0505 b001 ee") + _HALT
    """out 1 to port 0x505: the pvpanic device."""
    WRITES = bytes.fromhex("fc b80010 8ec0 31ff fec3 88d8 b9ffff f3aa 8cc0 050010 3d0090 7203 b80010 8ec0 ebe4")
    """Fills 512 KiB of memory over and over: a migration over a slow line never ends."""


def domain_xml(name: str, vm_id: VmId, devices: str = "") -> str:
    """Definition of an emulated domain of 16 MiB."""
    return _DOMAIN.format(name=name, uuid=UUID(bytes=vm_id), devices=devices)


def boot_sector(code: bytes) -> bytes:
    """The first sector of a disk that runs this code."""
    return code.ljust(_SECTOR_BYTES - 2, b"\0") + b"\x55\xaa"


def disk_xml(image: Path, target: str) -> str:
    """A virtio disk backed by this raw file."""
    return (
        f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{image}'/>"
        f"<target dev='{target}' bus='virtio'/><serial>SN-{target}</serial></disk>"
    )
