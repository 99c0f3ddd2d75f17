"""The name of a QEMU process, from files as the kernel and libvirtd write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from producers.libvirt.processes import (
    QemuProcess,
    boot_seconds_in,
    process_of,
    run_directories_of,
    start_ticks_in,
)
from schemas.ids import VmId, uuid_text

VM = VmId(bytes(range(16)))
STAT = "4711 (qemu (x86) system) S 1 4711 4711 0 -1 4194560 1 0 0 0 2 1 0 0 20 0 4 0 257186 612345 9000 18446744073709"


def host(tmp_path: Path, *, folder: str = "qemu/run", vm_id: VmId = VM, stat: str = STAT) -> tuple[Path, Path]:
    run, proc = tmp_path / "libvirt", tmp_path / "proc"
    (run / folder).mkdir(parents=True)
    (run / folder / "vm.pid").write_text("4711\n")
    (proc / "4711").mkdir(parents=True)
    (proc / "4711/cmdline").write_bytes(b"qemu\0-uuid\0" + uuid_text(vm_id).encode() + b"\0")
    (proc / "4711/stat").write_text(stat)
    (proc / "stat").write_text("cpu 1 2 3\nbtime 1700000000\nprocesses 7\n")
    return run, proc


@pytest.mark.parametrize("folder", ["qemu/run", "qemu"])
def test_domain_id_and_start_time(tmp_path: Path, folder: str) -> None:
    run, proc = host(tmp_path, folder=folder)
    process = process_of(VM, "vm", 3, [run], proc)
    assert process.process_id == "3-257186"
    assert process.started_at is not None
    assert 1_700_000_000_000_000_000 < process.started_at < 1_700_257_186_000_000_000


def test_process_that_can_not_be_seen_goes_by_its_domain_id(tmp_path: Path) -> None:
    run, proc = host(tmp_path)
    alone = QemuProcess(process_id="3")
    assert process_of(VM, "another", 3, [run], proc) == alone
    assert process_of(VM, "vm", 3, [], proc) == alone
    assert process_of(VM, "vm", 3, [tmp_path / "nowhere"], proc) == alone


def test_stale_process_id_file_names_nobody(tmp_path: Path) -> None:
    run, proc = host(tmp_path, vm_id=VmId(bytes(16)))
    assert process_of(VM, "vm", 3, [run], proc) == QemuProcess(process_id="3")


@pytest.mark.parametrize("stat", ["", "4711 (qemu) S 1", "garbage"])
def test_stat_that_is_cut_off(tmp_path: Path, stat: str) -> None:
    run, proc = host(tmp_path, stat=stat)
    assert process_of(VM, "vm", 3, [run], proc) == QemuProcess(process_id="3")


def test_fields_behind_a_name_with_blanks_and_parentheses() -> None:
    assert start_ticks_in(STAT) == 257186
    assert boot_seconds_in("intr 1\nbtime 12\n") == 12
    assert boot_seconds_in("intr 1\n") is None


@pytest.mark.parametrize(
    ("uri", "directories"),
    [
        ("qemu:///system", ["/run/libvirt"]),
        ("qemu:///session", ["/run/user/1000/libvirt"]),
        ("qemu+unix:///session?socket=/srv/x/libvirt-sock", ["/srv/x"]),
        ("qemu+ssh://host/system", []),
        ("test:///default", []),
    ],
)
def test_where_process_ids_are_kept(uri: str, directories: list[str]) -> None:
    assert run_directories_of(uri, 1000) == [Path(path) for path in directories]
