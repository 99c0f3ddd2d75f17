"""A VM migrates on the real line in every order in which the two hosts' words can arrive, and comes out clean."""

from __future__ import annotations

import pytest

from producers.simulator.migrations import MIGRATION_ORDERS, migrate
from schemas.ids import uuid_text
from tests.e2e.line import FleetInTest, WholeLine

pytestmark = [pytest.mark.stack, pytest.mark.slow]

HISTORY = """
SELECT version, cause, status, availability, host_id::text AS host_id, ownership_epoch, run_id, facets
FROM vm_change WHERE vm_id = %s ORDER BY incarnation, version
"""


@pytest.mark.parametrize("source_stays_defined", [False, True], ids=["source gone", "source defined"])
def test_seven_orders_hand_over_once_and_are_never_down(line: WholeLine, source_stays_defined: bool) -> None:
    seed = 11 + source_stays_defined
    with FleetInTest(line, hosts=2, vms=14, seed=seed) as fleet:
        line.settle()
        moved = {}
        for number, (name, order) in enumerate(MIGRATION_ORDERS.items()):
            vm = 2 * number
            moved[name] = fleet.fleet.vms[vm]
            assert fleet.fleet.vms[vm].owner == 0
            fleet.do(migrate(vm, 1, order=order, source_stays_defined=source_stays_defined), gap_seconds=0.1)
        assert line.disagreements(fleet.agent) == []
        destination = uuid_text(fleet.fleet.hosts[1].host_id)
        for name, mover in moved.items():
            history = line.rows(HISTORY, uuid_text(mover.vm_id))
            assert {row["status"] for row in history}.isdisjoint({"down", "crashed", "removed"}), name
            epochs = [row["ownership_epoch"] for row in history]
            assert epochs == sorted(epochs), name
            assert epochs[-1] - epochs[0] == 1, f"{name}: {epochs}"
            assert len({row["run_id"] for row in history}) == 1, name
            assert history[-1]["host_id"] == destination, name
            assert (history[-1]["status"], history[-1]["availability"]) == ("up", "known"), name
