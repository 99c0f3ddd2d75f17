"""A domain's XML as our words: what the VM is, and its devices. Pure, and suspicious of its input.

The document comes from libvirtd, but whoever may define a domain wrote parts of it. So size, depth and counts are
bounded before anything is built, and a document type (the door to entity bombs) is refused: libvirt writes none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from producers.libvirt.devices import devices_of
from schemas.facets.devices import Devices
from schemas.facets.identity import Identity

MAX_DOCUMENT_BYTES = 1 << 20
"""A domain with 100 disks has about 100 KB."""
MAX_DEPTH = 64
MAX_ELEMENTS = 20_000
MAX_TAGS = 64
MAX_NAME = 255
MAX_TAG_VALUE = 512
"""All tags together stay below a facet's 64 KiB."""

_UNITS: Final = {
    "b": 1,
    "bytes": 1,
    "kb": 1000,
    "k": 1 << 10,
    "kib": 1 << 10,
    "mb": 1000**2,
    "m": 1 << 20,
    "mib": 1 << 20,
    "gb": 1000**3,
    "g": 1 << 30,
    "gib": 1 << 30,
    "tb": 1000**4,
    "t": 1 << 40,
    "tib": 1 << 40,
}


class DefinitionRefused(ValueError):
    """The document is no domain, malformed, or beyond the limits: nothing is known of identity and devices."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Definition:
    """What a domain's document says; `Identity.persistent` is not part of it."""

    identity: Identity
    devices: Devices


def definition_of(document: str) -> Definition:
    """Parse a domain document, live or inactive; raises DefinitionRefused.

    Values that libvirt moves by itself (balloon, channel states, pty paths) are left out: they are statistics, or
    would make a change of nothing.
    """
    domain = _tree(document)
    if _local(domain.tag) != "domain":
        raise DefinitionRefused(f"the document is a <{_local(domain.tag)[:40]}>, not a <domain>")
    hardware = domain.find("devices")
    try:
        return Definition(
            identity=_identity(domain),
            devices=Devices(devices=[] if hardware is None else devices_of(hardware)),
        )
    except ValueError as error:
        raise DefinitionRefused(f"the document has a malformed number: {error}") from error


def _tree(document: str) -> Element:
    data = document.encode()
    if len(data) > MAX_DOCUMENT_BYTES:
        raise DefinitionRefused(f"the document has {len(data)} bytes, more than {MAX_DOCUMENT_BYTES}")
    builder = TreeBuilder()
    limits = _Limits()

    def start(tag: str, attributes: dict[str, str]) -> None:
        limits.enter()
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        limits.leave()
        builder.end(tag)

    parser = expat.ParserCreate(namespace_separator="}")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise DefinitionRefused(f"the document is malformed: {error}") from error
    return builder.close()


class _Limits:
    """Counts elements and depth while parsing."""

    def __init__(self) -> None:
        self._depth = 0
        self._elements = 0

    def enter(self) -> None:
        self._depth += 1
        self._elements += 1
        if self._depth > MAX_DEPTH or self._elements > MAX_ELEMENTS:
            raise DefinitionRefused(f"the document is deeper than {MAX_DEPTH} or has more than {MAX_ELEMENTS} elements")

    def leave(self) -> None:
        self._depth -= 1


def _refuse_doctype(*_: object) -> None:
    raise DefinitionRefused("the document has a document type, which libvirt never writes")


def _identity(domain: Element) -> Identity:
    vcpu = domain.find("vcpu")
    vcpus_max = None if vcpu is None else _number(vcpu.text)
    current = None if vcpu is None else _number(vcpu.get("current"))
    memory = _bytes_in(domain.find("memory"))
    memory_max = _bytes_in(domain.find("maxMemory"))
    kind = domain.find("os/type")
    return Identity(
        name=_text(domain.find("name")),
        tags=dict(_tags(domain)),
        vcpus=vcpus_max if current is None else current,
        vcpus_max=vcpus_max,
        memory_bytes=memory,
        memory_max_bytes=memory if memory_max is None else memory_max,
        machine=None if kind is None else _clipped(kind.get("machine")),
    )


def _tags(domain: Element) -> Iterator[tuple[str, str]]:
    """Title, description and the leaves of all metadata, by path of local names; at most `MAX_TAGS` of them."""
    found: dict[str, str] = {}
    for name in ("title", "description"):
        if (value := _text(domain.find(name), MAX_TAG_VALUE)) is not None:
            found[name] = value
    for path, value in _leaves(domain.find("metadata"), ""):
        if len(found) >= MAX_TAGS:
            break
        found.setdefault(path[:MAX_NAME], value)
    yield from found.items()


def _leaves(element: Element | None, path: str) -> Iterator[tuple[str, str]]:
    if element is None:
        return
    for child in element:
        below = f"{path}/{_local(child.tag)}" if path else _local(child.tag)
        for name, value in child.attrib.items():
            yield f"{below}@{_local(name)}", value[:MAX_TAG_VALUE]
        if (value := (child.text or "").strip()) and not len(child):
            yield below, value[:MAX_TAG_VALUE]
        yield from _leaves(child, below)


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _text(element: Element | None, limit: int = MAX_NAME) -> str | None:
    return None if element is None else _clipped((element.text or "").strip(), limit)


def _clipped(value: str | None, limit: int = MAX_NAME) -> str | None:
    return value[:limit] if value else None


def _number(text: str | None) -> int | None:
    return int(text) if text and len(text) < 20 else None


def _bytes_in(element: Element | None) -> int | None:
    if element is None:
        return None
    amount = _number((element.text or "").strip())
    factor = _UNITS.get(element.get("unit", "KiB").lower())
    return None if amount is None or factor is None else amount * factor
