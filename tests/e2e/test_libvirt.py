"""Real QEMU domains through the whole line: what happens to them stands in PostgreSQL, with the right reason."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.stack.endpoints import Endpoints
from schemas.ids import VmId, uuid_text
from tests.e2e.line import WholeLine
from tests.integration.libvirt.daemon import Guest, SessionLibvirtd, why_unavailable

pytestmark = [pytest.mark.libvirt, pytest.mark.stack, pytest.mark.slow]

HISTORY = """
SELECT version, cause, status, availability, exit_status, exit_reason, facets
FROM vm_change WHERE vm_id = %s ORDER BY incarnation, version
"""


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[SessionLibvirtd]:
    missing = why_unavailable()
    if missing is not None:
        pytest.skip(f"libvirt tests: {missing}")
    with SessionLibvirtd() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def real_line(
    endpoints: Endpoints, libvirtd: SessionLibvirtd, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WholeLine]:
    folder: Path = tmp_path_factory.mktemp("libvirt-line")
    with WholeLine(endpoints, folder, libvirt=("--uri", libvirtd.uri)) as line:
        yield line


class Domain:
    """One domain, seen from the database."""

    def __init__(self, line: WholeLine, vm_id: VmId) -> None:
        self._line = line
        self.id = uuid_text(vm_id)

    def row(self) -> dict[str, Any]:
        """Its row in table vm; empty while there is none."""
        rows = self._line.rows("SELECT * FROM vm WHERE vm_id = %s", self.id)
        return rows[0] if rows else {}

    def until(self, status: str, **columns: object) -> None:
        """Wait until the row says this."""
        wanted = {"status": status, "availability": "known", **columns}
        self._line.until(
            lambda: wanted.items() <= self.row().items(), 60.0, f"{wanted} of {self.id}; it is {self.row()}"
        )

    def history(self) -> list[dict[str, Any]]:
        """Its changes in order."""
        return self._line.rows(HISTORY, self.id)

    def statuses(self) -> list[str]:
        """Statuses in order, each once per stretch."""
        found: list[str] = []
        for row in self.history():
            if not found or found[-1] != row["status"]:
                found.append(row["status"])
        return found


def test_life_of_a_domain(real_line: WholeLine, libvirtd: SessionLibvirtd) -> None:
    domain = Domain(real_line, libvirtd.define("life"))
    domain.until("down")
    libvirtd.start_vm("life")
    domain.until("up")
    libvirtd.pause_vm("life")
    domain.until("paused", run_pause_reason="user")
    libvirtd.resume_vm("life")
    domain.until("up")
    before = len(domain.history())
    libvirtd.plug_nic("life", "52:54:00:00:00:07")
    nics = "SELECT mac FROM vm_device WHERE vm_id = %s AND class = 'interface'"
    real_line.until(lambda: real_line.rows(nics, domain.id) == [{"mac": "52:54:00:00:00:07"}], 30.0, "the NIC's row")
    plugged = domain.history()[before:]
    assert [list(row["facets"]) for row in plugged] == [["devices"]]
    libvirtd.destroy_vm("life")
    domain.until("down", exit_status="normal", exit_reason="admin_destroy")
    assert domain.statuses() == ["down", "up", "paused", "up", "down"]
    libvirtd.undefine_vm("life")
    real_line.until(lambda: domain.row()["status"] == "removed", 30.0, "removed")
    assert real_line.disagreements() == []


def test_guest_shutdown(real_line: WholeLine, libvirtd: SessionLibvirtd) -> None:
    domain = Domain(real_line, libvirtd.define("poweroff", guest=Guest.POWERS_OFF))
    libvirtd.start_vm("poweroff")
    domain.until("down", exit_status="normal", exit_reason="guest_shutdown")
    assert real_line.disagreements() == []


def test_killed_qemu(real_line: WholeLine, libvirtd: SessionLibvirtd) -> None:
    domain = Domain(real_line, libvirtd.define("killed"))
    libvirtd.start_vm("killed")
    domain.until("up")
    libvirtd.signal_qemu("killed", signal.SIGKILL)
    domain.until("crashed", exit_status="error", exit_reason="qemu_died")
    assert real_line.disagreements() == []


def test_death_while_libvirtd_was_down(real_line: WholeLine, libvirtd: SessionLibvirtd) -> None:
    dead = Domain(real_line, libvirtd.define("dead"))
    alive = Domain(real_line, libvirtd.define("alive"))
    libvirtd.start_vm("dead")
    libvirtd.start_vm("alive")
    dead.until("up")
    alive.until("up")
    pid = libvirtd.qemu_pid("dead")
    before = alive.history()
    libvirtd.stop()
    assert pid
    libvirtd.signal_qemu("dead", signal.SIGKILL)
    libvirtd.start()
    dead.until("crashed", exit_status="error", exit_reason="qemu_died")
    assert alive.history() == before, "a domain that only lost its daemon has not changed"
    assert "down" not in alive.statuses()[1:]
    assert real_line.disagreements() == []
