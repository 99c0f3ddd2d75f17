"""What a simulated VM or host is, computed from the seed whenever it is asked for: nothing is stored.

Pure. Equal arguments give equal values in every process, so a fleet is the same fleet wherever it is built.
"""

from functools import lru_cache
from hashlib import blake2b

from schemas.facets.console import Console, Display
from schemas.facets.devices import Device, Devices
from schemas.facets.guest import Guest, GuestNic, GuestOs
from schemas.facets.host import HostCapacity, HostSystem
from schemas.facets.identity import Identity
from schemas.facets.jobs import Job, Jobs
from schemas.facets.numa import Numa, NumaCell

_GIB = 1 << 30
_VCPUS = (1, 1, 2, 2, 2, 4, 4, 8)
_SYSTEMS = (
    GuestOs(name="debian", version="13", kernel="6.12.41", arch="x86_64"),
    GuestOs(name="rhel", version="10.1", kernel="6.12.0", arch="x86_64"),
    GuestOs(name="windows", version="2025", arch="x86_64"),
    GuestOs(name="ubuntu", version="24.04", kernel="6.8.0", arch="x86_64"),
)
_CLUSTERS = ("alpha", "beta", "gamma")
_NUMA_FROM_VCPUS = 8

CACHED_VMS = 16_384
"""Definitions kept for VMs that change often; the rest is computed anew, which takes some 20 µs."""


def derived_id(seed: int, kind: str, *numbers: int) -> bytes:
    """16 bytes in the form of a UUID, a function of the arguments alone."""
    text = ":".join((kind, str(seed), *map(str, numbers)))
    raw = bytearray(blake2b(text.encode("ascii"), digest_size=16).digest())
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    return bytes(raw)


def vcpus(vm: int) -> int:
    """Virtual CPUs of a VM."""
    return _VCPUS[vm % len(_VCPUS)]


@lru_cache(CACHED_VMS)
def identity(vm: int) -> Identity:
    """What the VM is."""
    count = vcpus(vm)
    return Identity(
        name=f"vm-{vm:07d}",
        cluster=_CLUSTERS[vm % len(_CLUSTERS)],
        tags={"owner": f"team-{vm % 40:02d}", "tier": "gold" if vm % 10 == 0 else "silver"},
        vcpus=count,
        vcpus_max=2 * count,
        memory_bytes=count * 2 * _GIB,
        memory_max_bytes=count * 4 * _GIB,
        machine="pc-q35-9.2",
        persistent=True,
    )


@lru_cache(CACHED_VMS)
def devices(vm: int, plugged: tuple[int, ...]) -> Devices:
    """Virtual hardware, with the disks plugged in while it runs; sorted by alias."""
    found = [
        Device(device_class="channel", alias="channel0", target="org.qemu.guest_agent.0", model="virtio"),
        Device(
            device_class="interface",
            alias="net0",
            address="pci:0000:01:00.0",
            model="virtio",
            backend="br0",
            target=f"vnet{vm}",
            mac=mac(vm),
        ),
        _disk(vm, "virtio-disk0", "vda", "pci:0000:04:00.0"),
    ]
    found += [
        _disk(vm, f"virtio-disk{number}", f"vd{chr(ord('a') + number % 26)}", f"pci:0000:{number + 5:02x}:00.0")
        for number in plugged
    ]
    return Devices(devices=sorted(found, key=lambda device: device.alias))


def _disk(vm: int, alias: str, target: str, address: str) -> Device:
    return Device(
        device_class="disk",
        alias=alias,
        address=address,
        model="virtio",
        backend=f"/pool/images/{vm:07d}-{target}.qcow2",
        target=target,
        serial=f"{vm:07d}{target}",
    )


def mac(vm: int) -> str:
    """MAC address of the first interface."""
    return f"52:54:00:{vm >> 16 & 0xFF:02x}:{vm >> 8 & 0xFF:02x}:{vm & 0xFF:02x}"


def guest(vm: int, lease: int, *, connected: bool, seen_at: int | None) -> Guest:
    """What the guest agent says; while it is away its last word stays, as stale (rule D4)."""
    if seen_at is None:
        return Guest(agent_connected=connected)
    number = vm + 7919 * lease
    nic = GuestNic(
        name="eth0",
        mac=mac(vm),
        ipv4=[f"10.{number >> 16 & 0x7F}.{number >> 8 & 0xFF}.{number & 0xFF}"],
        ipv6=[f"fd00::{number & 0xFFFFFFFF:x}"],
    )
    return Guest(
        agent_connected=connected,
        fqdn=f"vm-{vm:07d}.example.org",
        os=_SYSTEMS[vm % len(_SYSTEMS)],
        timezone="Etc/UTC",
        nics=[nic],
        ips_as_of=seen_at,
        stale=not connected,
    )


def console(vm: int, host: int, client: int, since: int | None) -> Console:
    """Displays on this host, and who looks at them; client 0 is nobody."""
    display = Display(type="vnc", address=host_address(host), port=5900 + vm % 20_000)
    if not client:
        return Console(displays=[display])
    return Console(displays=[display], client_ip=f"192.168.{client >> 8 & 0xFF}.{client & 0xFF}", client_since=since)


def numa(vm: int) -> Numa | None:
    """Guest cells of the larger VMs."""
    count = vcpus(vm)
    if count < _NUMA_FROM_VCPUS:
        return None
    half = count // 2
    cells = [
        NumaCell(id=cell, memory_bytes=count * _GIB, vcpus=list(range(cell * half, (cell + 1) * half)))
        for cell in (0, 1)
    ]
    return Numa(cells=cells)


def jobs(vm: int, open_jobs: tuple[int, ...]) -> Jobs:
    """Open block jobs."""
    return Jobs(jobs=[Job(id=f"job-{vm}-{number}", disk="vda", type="commit", state="running") for number in open_jobs])


def host_address(host: int) -> str:
    """Address of a host."""
    return f"10.200.{host >> 8 & 0xFF}.{host & 0xFF}"


def host_system(host: int) -> HostSystem:
    """What a host is."""
    return HostSystem(
        hostname=f"host-{host:05d}.example.org",
        os="debian 13",
        kernel="6.12.41",
        hypervisor="simulated",
        agent_version="simulator",
    )


def host_capacity(host: int) -> HostCapacity:
    """What a host can carry."""
    return HostCapacity(
        cpu_model=("EPYC-Genoa", "SapphireRapids")[host % 2], cpus=256, cpu_sockets=2, memory_bytes=2048 * _GIB
    )
