"""F-P1 to F-P7, F-S1 to F-S5: every part dies at every point, under load; INV-1, 2, 3, 4, 6, 7 hold."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from infra.runtime.failpoints import POINTS
from infra.stack.endpoints import Endpoints
from tests.faults import shots
from tests.faults.crew import Crew
from tests.faults.faulty_line import FaultyLine
from tests.faults.load import Load

pytestmark = [pytest.mark.stack, pytest.mark.slow]

OTHER_ENDS = {
    "vms-1": ["vms.outbox.outputs_delivered:drop:9", "vms.outbox.before_rows:raise:9", "vms.commit.done:drop:1"],
    "hosts-1": ["hosts.outbox.rows_delivered:drop:9", "hosts.outbox.row:raise:77", "hosts.commit.done:drop:1"],
    "postgres-1": ["postgres.commit_sent:drop:2", "postgres.statement:kill:3", "postgres.statement:kill:1"],
}
LEAST_CHANGES_PER_SECOND = 2_000.0


def test_every_part_dies_at_every_point_under_load(endpoints: Endpoints, tmp_path: Path) -> None:
    plan = {
        name: [*shots.kill_at_every_point(name.partition("-")[0]), *map(shots.of, others)]
        for name, others in OTHER_ENDS.items()
    }
    with FaultyLine(endpoints, tmp_path) as line, Crew(line.parts()) as crew:
        crew.wait_ready()
        with Load(line.kafka, line.topics) as load:
            load.resume()
            began_at = time.monotonic()
            tally = shots.fire_all(crew, plan)
            rate = load.accepted_changes / (time.monotonic() - began_at)
            crew.wait_ready()
            line.settle(load)
            account = line.account(load)
    print(f"{len(crew.ended)} ends, {rate:.0f} changes/s, again {tally.again}, {account}")
    assert account.clean, account
    assert tally.missed == []
    assert {armed.split(":")[0] for armed in tally.hit} == set(POINTS)
    assert rate >= LEAST_CHANGES_PER_SECOND
