"""Every simulator script on the real line: rows = ground truth, history = fold of vm.changes, chains unbroken."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from producers.simulator import migrations, scripts
from producers.simulator.fleet import Script
from schemas.ids import uuid_text
from schemas.status import PauseErrno
from tests.e2e.line import FleetInTest, WholeLine

pytestmark = [pytest.mark.stack, pytest.mark.slow]

SCRIPTS: dict[str, Callable[[], Script]] = {
    "stop": lambda: scripts.stop(0),
    "boot": lambda: scripts.then(scripts.stop(1), scripts.boot(1)),
    "destroy": lambda: scripts.destroy(2),
    "qemu_death": lambda: scripts.qemu_death(3),
    "reboot": lambda: scripts.reboot(4),
    "pause": lambda: scripts.pause(5),
    "resume": lambda: scripts.then(scripts.pause(6), scripts.resume(6)),
    "io_error": lambda: scripts.io_error(7, PauseErrno.ENOSPC),
    "plug": lambda: scripts.plug(8),
    "unplug": lambda: scripts.then(scripts.plug(9), scripts.unplug(9)),
    "guest_change": lambda: scripts.guest_change(10),
    "connect": lambda: scripts.connect(11),
    "block_job": lambda: scripts.block_job(12),
    "migrate": lambda: migrations.migrate(15, 1),
    "migrate_fail": lambda: migrations.migrate_fail(17, 1),
    "migrate_cancel": lambda: migrations.migrate_cancel(18, 1),
    "undefine": lambda: scripts.then(scripts.stop(21), scripts.undefine(21)),
    "define_again": lambda: scripts.then(scripts.stop(22), scripts.undefine(22), scripts.define_again(22)),
    "restart_agent": lambda: scripts.restart_agent(2),
    "storm": lambda: scripts.then(*(scripts.stop(vm) for vm in range(24, 27)), scripts.storm(range(24, 27))),
}


def test_every_script_comes_out_as_the_fleet_knows_it(line: WholeLine) -> None:
    with FleetInTest(line, hosts=3, vms=30) as fleet:
        line.settle()
        for name, make in SCRIPTS.items():
            fleet.do(make(), gap_seconds=0.05)
            assert line.disagreements(fleet.agent) == [], name
        stopped = uuid_text(fleet.fleet.vms[0].vm_id)
        (row,) = line.rows("SELECT status, exit_status, exit_reason FROM vm WHERE vm_id = %s", stopped)
        assert row == {"status": "down", "exit_status": "normal", "exit_reason": "guest_shutdown"}
        again = uuid_text(fleet.fleet.vms[22].vm_id)
        (row,) = line.rows("SELECT count(DISTINCT incarnation) AS lives FROM vm_change WHERE vm_id = %s", again)
        assert row["lives"] == 2
