"""Domain documents: two of one VM as libvirt 9.0 wrote them, running and stopped, and hostile ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.libvirt import devices
from producers.libvirt.xml import (
    MAX_DEPTH,
    MAX_DOCUMENT_BYTES,
    MAX_ELEMENTS,
    MAX_NAME,
    MAX_TAG_VALUE,
    MAX_TAGS,
    DefinitionRefused,
    definition_of,
)
from schemas.facets import FACET_LIMIT_BYTES
from schemas.facets.devices import Device
from schemas.facets.identity import Identity
from schemas.facets.normal import normalise

DOCUMENTS = Path(__file__).parent / "documents"
RUNNING = (DOCUMENTS / "running.xml").read_text()
STOPPED = (DOCUMENTS / "stopped.xml").read_text()


def device(alias: str, document: str = RUNNING) -> Device:
    return next(device for device in definition_of(document).devices.devices if device.alias == alias)


def domain(inner: str) -> str:
    return f"<domain type='qemu'><name>x</name>{inner}</domain>"


def only_device(inner: str) -> Device:
    found = definition_of(domain(f"<devices>{inner}</devices>")).devices.devices
    assert len(found) == 1
    return found[0]


def test_identity() -> None:
    assert definition_of(RUNNING).identity == Identity(
        name="rich",
        tags={
            "title": "Payroll",
            "description": "Runs on the first of the month",
            "instance/name": "payroll-1",
            "instance/owner/project@uuid": "p-1",
            "instance/owner/project": "finance",
        },
        vcpus=1,
        vcpus_max=2,
        memory_bytes=128 << 20,
        memory_max_bytes=512 << 20,
        machine="pc-q35-7.2",
    )


def test_nothing_changes_when_a_vm_stops() -> None:
    assert "<alias" in RUNNING
    assert "<alias" not in STOPPED
    assert definition_of(RUNNING) == definition_of(STOPPED)


def test_devices_are_in_normal_form() -> None:
    found = definition_of(RUNNING).devices
    assert len(found.devices) > 30
    assert normalise(found) == found
    assert len({device.alias for device in found.devices}) == len(found.devices)


def test_devices_of_every_bus() -> None:
    assert device("virtio-disk0") == Device(
        device_class="disk",
        alias="virtio-disk0",
        address="pci:0000:07:00.0",
        model="virtio",
        backend="/srv/vm/disk0.raw",
        target="vda",
        serial="S1",
    )
    assert device("scsi0-0-0-0").serial == "5000c50015ea71ac"
    assert (device("sata0-0-2").device_class, device("sata0-0-2").address) == ("cdrom", "drive:0:0:0:2")
    assert device("usb-disk3").address == "usb:0:1"
    assert device("net0").mac == "52:54:00:00:00:0a"
    assert device("pcie.0").model == "pci/pcie-root"
    assert device("ide").model == "sata"
    assert device("dimm0").backend == "65536"
    assert device("channel0").target == "org.qemu.guest_agent.0"
    assert device("watchdog0").model == "i6300esb"


def test_what_libvirt_moves_by_itself_is_left_out() -> None:
    moved = (
        RUNNING.replace("<currentMemory unit='KiB'>131072", "<currentMemory unit='KiB'>65536")
        .replace("state='disconnected'", "state='connected'")
        .replace("/dev/pts/", "/dev/pts/1")
    )
    assert moved != RUNNING
    assert definition_of(moved) == definition_of(RUNNING)


@pytest.mark.parametrize(
    ("inner", "alias", "backend"),
    [
        (
            "<interface type='bridge'><source bridge='br0'/><target dev='vnet3'/></interface>",
            "net0",
            "bridge:br0",
        ),
        (
            "<interface type='network'><source network='default' bridge='virbr0'/></interface>",
            "net0",
            "network:default",
        ),
        ("<disk><source pool='p' volume='v'/><target dev='vdb' bus='virtio'/></disk>", "virtio-disk1", "p/v"),
        (
            "<disk type='network'><source protocol='rbd' name='pool/image'/><target dev='vdaa' bus='virtio'/></disk>",
            "virtio-disk26",
            "rbd:pool/image",
        ),
        (
            "<hostdev mode='subsystem' type='pci'><source><address domain='0x0000' bus='0x3b' slot='0x00' "
            "function='0x1'/></source></hostdev>",
            "hostdev0",
            "pci:0000:3b:00.1",
        ),
        ("<filesystem type='mount'><source dir='/srv'/><target dir='share'/></filesystem>", "fs0", "/srv"),
        ("<disk device='cdrom'><target dev='hdc' bus='ide'/></disk>", "ide-disk2", None),
        ("<controller type='ide' index='0'/>", "ide", None),
        ("<controller type='sata' index='1'/>", "sata1", None),
        ("<serial type='tcp'><source mode='bind' host='127.0.0.1'/></serial>", "serial0", "tcp:127.0.0.1"),
    ],
)
def test_backends_and_aliases_of_inactive_definitions(inner: str, alias: str, backend: str | None) -> None:
    found = only_device(inner)
    assert (found.alias, found.backend) == (alias, backend)


def test_displays_and_pseudo_devices_are_no_devices() -> None:
    inner = "<emulator>/usr/bin/qemu</emulator><graphics type='vnc'/><memballoon model='none'/><audio id='1'/>"
    assert definition_of(domain(f"<devices>{inner}</devices>")).devices.devices == []


def test_domain_without_anything_is_unknown_not_zero() -> None:
    definition = definition_of("<domain/>")
    assert definition.identity == Identity()
    assert definition.devices.devices == []


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        ("<memory>1024</memory>", 1 << 20),
        ("<memory unit='GiB'>2</memory>", 2 << 30),
        ("<memory unit='MB'>1</memory>", 1_000_000),
        ("<memory unit='furlongs'>1</memory>", None),
        ("<memory/>", None),
    ],
)
def test_units_of_memory(memory: str, expected: int | None) -> None:
    assert definition_of(domain(memory)).identity.memory_bytes == expected


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("", "malformed"),
        ("<domain>", "malformed"),
        ("no xml", "malformed"),
        ("<network/>", "not a <domain>"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><domain><name>&a;</name></domain>", "document type"),
        ("<domain>" + " " * MAX_DOCUMENT_BYTES + "</domain>", "bytes"),
        ("<domain>" + "<a>" * MAX_DEPTH + "</a>" * MAX_DEPTH + "</domain>", "deeper"),
        ("<domain>" + "<a/>" * MAX_ELEMENTS + "</domain>", "elements"),
        ("<domain><vcpu>many</vcpu></domain>", "malformed number"),
        ("<domain><devices><controller type='pci' index='x'/></devices></domain>", "malformed number"),
    ],
)
def test_refused_documents(document: str, complaint: str) -> None:
    with pytest.raises(DefinitionRefused, match=complaint):
        definition_of(document)


def test_hostile_amounts_are_bounded() -> None:
    long = "x" * 5000
    metadata = "".join(f"<m{number} xmlns='urn:x'>{long}</m{number}>" for number in range(100))
    definition = definition_of(
        f"<domain><name>{long}</name><title>{long}</title><metadata>{metadata}</metadata></domain>"
    )
    assert definition.identity.name == "x" * MAX_NAME
    assert len(definition.identity.tags) == MAX_TAGS
    assert all(len(value) <= MAX_TAG_VALUE for value in definition.identity.tags.values())
    assert sum(map(len, definition.identity.tags.values())) < FACET_LIMIT_BYTES
    many = "<devices>" + "<disk><target dev='vda' bus='virtio'/></disk>" * (devices.MAX_DEVICES + 5) + "</devices>"
    assert len(definition_of(domain(many)).devices.devices) == devices.MAX_DEVICES


@given(at=st.integers(0, len(RUNNING) - 1), length=st.integers(0, 400), junk=st.text(max_size=20))
def test_damaged_documents_are_read_or_refused(at: int, length: int, junk: str) -> None:
    try:
        definition = definition_of(RUNNING[:at] + junk + RUNNING[at + length :])
    except DefinitionRefused:
        return
    assert len(definition.devices.devices) <= devices.MAX_DEVICES
