"""Any process is killed under load, and nothing is lost, doubled or left different."""

from __future__ import annotations

import os
import signal
import time
from functools import partial

import pytest

from tests.e2e.line import FleetInTest, WholeLine

pytestmark = [pytest.mark.stack, pytest.mark.slow]

PARTS = ("vms-1", "hosts-1", "postgres-1")


def test_every_part_is_killed_under_load_and_all_agree(line: WholeLine) -> None:
    with FleetInTest(line, hosts=4, vms=200, seed=41, life="busy:30", life_rate=80.0) as fleet:
        time.sleep(4.0)
        for number in range(2 * len(PARTS)):
            victim = PARTS[number % len(PARTS)]
            killed = line.pid_of(victim)
            os.kill(killed, signal.SIGKILL)
            line.until(partial(line.lives_again, victim, killed), 30.0, f"{victim} runs again")
            time.sleep(1.5)
        fleet.until_stable(60.0)
        assert line.disagreements(fleet.agent) == []
    assert line.restarts() == {"vms-1": 2, "hosts-1": 2, "postgres-1": 2}
