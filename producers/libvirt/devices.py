"""The devices of a domain document, as a set sorted by alias (rule D1). Pure.

Only what stays the same while nobody changes the hardware is taken. An inactive definition has no aliases: there the
one is computed that libvirt will give (its scheme is qemu_alias.c), so that starting or stopping a VM changes none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final
from xml.etree.ElementTree import Element

from schemas.facets.devices import Device

MAX_DEVICES = 1000
MAX_NAME = 255
MAX_BACKEND = 1024

_ALIAS_PREFIXES: Final = {
    "interface": "net",
    "hostdev": "hostdev",
    "video": "video",
    "sound": "sound",
    "input": "input",
    "rng": "rng",
    "watchdog": "watchdog",
    "memballoon": "balloon",
    "tpm": "tpm",
    "filesystem": "fs",
    "redirdev": "redir",
    "serial": "serial",
    "parallel": "parallel",
    "console": "console",
    "channel": "channel",
    "smartcard": "smartcard",
    "hub": "hub",
    "shmem": "shmem",
    "panic": "panic",
    "memory": "dimm",
    "iommu": "iommu",
    "vsock": "vsock",
    "crypto": "crypto",
}
_DRIVE_BUSES: Final = {"ide": "ide", "sata": "sata", "scsi": "scsi", "fdc": "fdc"}
_BUILT_IN_SATA: Final = "pci:0000:00:1f.2"
"""Of the q35 machine; libvirt calls it so for the sake of old domains."""
_CHARACTER_DEVICES: Final = frozenset({"serial", "parallel", "console", "channel"})

# Paths of pseudo terminals are new at every start, and so are those of a channel's socket.
_STABLE_CHARACTER_BACKENDS: Final = frozenset({"file", "unix", "tcp", "udp", "dev", "pipe"})


def devices_of(hardware: Element) -> list[Device]:
    """All devices of a ``<devices>`` element but displays, which are facet `console`; at most `MAX_DEVICES`.

    Raises ValueError when a number that a scheme of aliases needs is none.
    """
    devices: list[Device] = []
    seen: Counter[str] = Counter()
    for element in hardware:
        if len(devices) >= MAX_DEVICES:
            break
        index = seen[element.tag]
        seen[element.tag] += 1
        if _is_device(element):
            devices.append(_device(element, _alias(element, index)))
    return sorted(devices, key=lambda device: (device.alias, device.device_class, device.address or ""))


def _is_device(element: Element) -> bool:
    if element.tag in ("disk", "controller"):
        return True
    if element.tag == "memballoon":
        return element.get("model") != "none"
    if element.tag == "console":
        # The first console is the first serial port under another name.
        target = element.find("target")
        return target is not None and target.get("type") != "serial"
    return element.tag in _ALIAS_PREFIXES


def _alias(element: Element, index: int) -> str:
    given = element.find("alias")
    if given is not None and (name := given.get("name")):
        return name[:MAX_NAME]
    if element.tag == "disk":
        return _disk_alias(element)
    if element.tag == "controller":
        return _controller_alias(element)
    return f"{_ALIAS_PREFIXES[element.tag]}{index}"


def _disk_alias(disk: Element) -> str:
    target = disk.find("target")
    bus = "" if target is None else target.get("bus", "")
    address = disk.find("address")
    if bus in _DRIVE_BUSES and address is not None and address.get("type") == "drive":
        parts = ("controller", "bus", "target", "unit") if bus == "scsi" else ("controller", "bus", "unit")
        return _DRIVE_BUSES[bus] + "-".join(str(int(address.get(part, "0"))) for part in parts)
    return f"{bus[:20] or 'unknown'}-disk{_disk_index('' if target is None else target.get('dev', ''))}"


def _disk_index(name: str) -> int:
    """0 for vda, 25 for vdz, 26 for vdaa, as libvirt counts."""
    index = 0
    for letter in name[2:8].rstrip("0123456789"):
        index = index * 26 + ord(letter) - ord("a") + 1
    return max(index - 1, 0)


def _controller_alias(controller: Element) -> str:
    kind = controller.get("type", "")[:40]
    index = int(controller.get("index", "0"))
    if kind == "sata" and _address(controller.find("address")) == _BUILT_IN_SATA:
        return "ide"
    if kind == "pci":
        return f"{'pcie' if controller.get('model') == 'pcie-root' else 'pci'}.{index}"
    return kind if index == 0 and kind in ("ide", "usb") else f"{kind}{index}"


def _device(element: Element, alias: str) -> Device:
    kind = element.tag
    target = element.find("target")
    mac = element.find("mac")
    return Device(
        device_class=_class(element),
        alias=alias,
        address=_address(element.find("address")),
        model=_clipped(_model(element)),
        backend=_clipped(_backend(element), MAX_BACKEND),
        target=_clipped(_target(kind, target)),
        mac=None if mac is None else _clipped(mac.get("address")),
        serial=_clipped(_inner(element, "serial") or _inner(element, "wwn")) if kind == "disk" else None,
    )


def _class(element: Element) -> str:
    if element.tag == "disk" and element.get("device") in ("cdrom", "floppy", "lun"):
        return str(element.get("device"))
    return element.tag


def _target(kind: str, target: Element | None) -> str | None:
    if target is None:
        return None
    if kind == "filesystem":
        return target.get("dir")
    if kind == "channel":
        return target.get("name")
    return target.get("dev")


def _model(element: Element) -> str | None:
    kind = element.tag
    if kind == "disk":
        target = element.find("target")
        return None if target is None else target.get("bus")
    if kind == "controller":
        return "/".join(part for part in (element.get("type"), element.get("model")) if part)
    if kind in ("interface", "video"):
        model = element.find("model")
        return None if model is None else model.get("type")
    if kind == "input":
        return "/".join(part for part in (element.get("type"), element.get("bus")) if part)
    return element.get("model") or element.get("type")


def _address(address: Element | None) -> str | None:
    if address is None:
        return None
    values = dict(address.attrib)
    kind = values.pop("type", "")
    if kind == "pci":
        parts = (int(values.get(name, "0"), 16) for name in ("domain", "bus", "slot", "function"))
        return "pci:{:04x}:{:02x}:{:02x}.{:x}".format(*parts)
    # A memory module's base is known only while it is plugged.
    values.pop("base", None)
    return f"{kind}:{':'.join(values.values())}"[:MAX_NAME]


def _backend(element: Element) -> str | None:
    kind = element.tag
    if kind == "memory":
        return _inner(element, "target/size")
    if kind == "rng":
        return _inner(element, "backend")
    source = element.find("source")
    if kind in _CHARACTER_DEVICES:
        own = element.get("type", "")
        is_stable = kind != "channel" and own in _STABLE_CHARACTER_BACKENDS
        path = None if source is None or not is_stable else _any_of(source, "path", "host")
        return ":".join(part for part in (own, path) if part)
    if source is None:
        return element.get("type") if kind == "interface" else None
    return _SOURCES.get(kind, _plain_source)(element, source)


def _disk_source(disk: Element, source: Element) -> str | None:
    if (pool := source.get("pool")) is not None:
        return f"{pool}/{source.get('volume', '')}"
    if (protocol := source.get("protocol")) is not None:
        return f"{protocol}:{source.get('name', '')}"
    return _any_of(source, "file", "dev", "dir", "path")


def _interface_source(interface: Element, source: Element) -> str:
    name = _any_of(source, "network", "bridge", "dev", "path", "address", "name")
    return ":".join(part for part in (interface.get("type"), name) if part)


def _hostdev_source(hostdev: Element, source: Element) -> str | None:
    address = source.find("address")
    if address is None:
        return _plain_source(hostdev, source)
    if hostdev.get("type") == "pci":
        return _address(_with_type(address, "pci"))
    return ":".join(address.attrib.values())


def _with_type(address: Element, kind: str) -> Element:
    return Element("address", {**address.attrib, "type": kind})


def _plain_source(_: Element, source: Element) -> str | None:
    return _any_of(source, "dir", "name", "path", "dev", "file")


_SOURCES: Final[dict[str, Callable[[Element, Element], str | None]]] = {
    "disk": _disk_source,
    "interface": _interface_source,
    "hostdev": _hostdev_source,
}


def _any_of(element: Element, *names: str) -> str | None:
    return next((value for name in names if (value := element.get(name))), None)


def _inner(element: Element, path: str) -> str | None:
    return (element.findtext(path) or "").strip() or None


def _clipped(value: str | None, limit: int = MAX_NAME) -> str | None:
    return value[:limit] if value else None
