"""Who the host is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from infra.runtime.errors import ConfigError
from producers.libvirt import open_source
from producers.libvirt.host import identity_of_host, os_name_in, version_text
from schemas.ids import BootId, HostId, MachineId, uuid_bytes

MACHINE = "3d1219c7c4c5404aaa1f6d2a48adfda4"
BOOT = "7e42439b-7b6e-4472-8d8e-045d32646449"


def files(tmp_path: Path, machine: str = MACHINE + "\n", boot: str = BOOT + "\n") -> tuple[Path, Path]:
    machine_path, boot_path = tmp_path / "machine-id", tmp_path / "boot_id"
    machine_path.write_text(machine)
    boot_path.write_text(boot)
    return machine_path, boot_path


def test_host_goes_by_its_machine_id(tmp_path: Path) -> None:
    machine_path, boot_path = files(tmp_path)
    identity = identity_of_host(None, None, None, machine_id_path=machine_path, boot_id_path=boot_path)
    assert bytes(identity.host_id) == bytes(identity.machine_id) == bytes.fromhex(MACHINE)
    assert identity.boot_id == uuid_bytes(BOOT)


def test_settings_come_first(tmp_path: Path) -> None:
    machine_path, boot_path = files(tmp_path, machine="", boot="")
    given = HostId(b"h" * 16), MachineId(b"m" * 16), BootId(b"b" * 16)
    identity = identity_of_host(*given, machine_id_path=machine_path, boot_id_path=boot_path)
    assert (identity.host_id, identity.machine_id, identity.boot_id) == given


@pytest.mark.parametrize("machine", ["", "uninitialized\n", "abc"])
def test_host_without_an_id_says_what_to_do(tmp_path: Path, machine: str) -> None:
    machine_path, boot_path = files(tmp_path, machine=machine)
    with pytest.raises(ConfigError, match=r"machine-id.*set machine_id"):
        identity_of_host(None, None, None, machine_id_path=machine_path, boot_id_path=boot_path)


def test_missing_binding_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "producers.libvirt.source", raising=False)
    monkeypatch.setitem(sys.modules, "libvirt", None)
    with pytest.raises(ConfigError, match=r"infra/stack/libvirt\.sh"):
        open_source()


def test_names_for_people() -> None:
    assert version_text(9_000_000) == "9.0.0"
    assert version_text(7_002_022) == "7.2.22"
    assert (
        os_name_in('NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n') == "Debian GNU/Linux 12 (bookworm)"
    )
    assert os_name_in("") is None
