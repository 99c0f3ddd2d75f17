"""Who this host is, and what it is and can carry."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.runtime.errors import ConfigError
from producers.agent.source import HostIdentity
from schemas.facets.host import HostCapacity, HostSystem
from schemas.ids import BootId, HostId, MachineId, uuid_bytes

if TYPE_CHECKING:
    from producers.libvirt.connection import Connection

_MACHINE_ID = Path("/etc/machine-id")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_OS_RELEASE = Path("/etc/os-release")
_MIB = 1 << 20


def identity_of_host(
    host_id: HostId | None,
    machine_id: MachineId | None,
    boot_id: BootId | None,
    *,
    machine_id_path: Path = _MACHINE_ID,
    boot_id_path: Path = _BOOT_ID,
) -> HostIdentity:
    """The identity, read from this host where it is not given. Raises ConfigError.

    Without a setting the host goes by its machine id, not by libvirt's host UUID: where the firmware's UUID is
    unreadable or a known dud, libvirtd makes up another one at each of its starts.
    """
    machine = MachineId(_id_in(machine_id_path, "machine_id")) if machine_id is None else machine_id
    return HostIdentity(
        host_id=HostId(bytes(machine)) if host_id is None else host_id,
        machine_id=machine,
        boot_id=BootId(_id_in(boot_id_path, "boot_id")) if boot_id is None else boot_id,
    )


def _id_in(path: Path, setting: str) -> bytes:
    try:
        return uuid_bytes(path.read_text().strip())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no usable id ({error})", where=str(path), advice=f"mend the file, or set {setting}"
        ) from error


def system_of(connection: Connection) -> HostSystem:
    """What the host is; what libvirt does not say is None. Raises SourceUnavailable."""
    raw = connection.raw
    hypervisor = connection.try_ask(raw.getType)
    version = connection.try_ask(raw.getVersion)
    return HostSystem(
        hostname=connection.try_ask(raw.getHostname),
        os=os_name_in(_read(_OS_RELEASE)),
        kernel=platform.release() or None,
        hypervisor=hypervisor if version is None else f"{hypervisor} {version_text(version)}",
        libvirt_version=_maybe_version(connection.try_ask(raw.getLibVersion)),
    )


def capacity_of(connection: Connection) -> HostCapacity:
    """What the host can carry; raises SourceUnavailable."""
    info = connection.try_ask(connection.raw.getInfo)
    if info is None:
        return HostCapacity()
    model, memory_mib, cpus, _, nodes, sockets, *_ = info
    return HostCapacity(cpu_model=model, cpus=cpus, cpu_sockets=sockets * max(nodes, 1), memory_bytes=memory_mib * _MIB)


def version_text(number: int) -> str:
    """libvirt's version number (1,000,000 x major + 1,000 x minor + release) as text."""
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"


def os_name_in(os_release: str) -> str | None:
    """The name for people in an os-release file; see os-release(5)."""
    for line in os_release.splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip().strip("\"'") or None
    return None


def _maybe_version(number: Any) -> str | None:
    return None if number is None else version_text(int(number))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
