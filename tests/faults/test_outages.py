"""F-B1, F-S7: Kafka and PostgreSQL are killed and stay away, once each and together; INV-1, 2, 3, 5, 7 hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.stack.services import ServiceName
from tests.faults.crew import Crew
from tests.faults.faulty_line import FaultyLine
from tests.faults.lag import Lag
from tests.faults.load import Load, LoadShape
from tests.faults.outage import away, own_stack

pytestmark = [pytest.mark.stack, pytest.mark.slow]

AWAY_SECONDS = 20.0
"""Longer than every session, delivery and grace of a restart."""
BEHIND_SECONDS = 10.0
RECOVERY_SECONDS = 90.0
"""INV-5: 10 s + outage * in / (capacity - in), with room for a machine several times slower."""
SHAPE = LoadShape(changes_per_second=2_100.0)


def test_servers_are_killed_and_stay_away_under_load(tmp_path: Path) -> None:
    with own_stack("faults-outage") as stack:
        endpoints = stack.up(services={"kafka", "postgres"})
        with FaultyLine(endpoints, tmp_path) as line, Crew(line.parts()) as crew:
            crew.wait_ready()
            with Load(line.kafka, line.topics, SHAPE) as load:
                load.resume()
                lag = Lag(line, load)
                lag.until_below(BEHIND_SECONDS, RECOVERY_SECONDS)
                took = {}
                for service in (ServiceName.POSTGRES, ServiceName.KAFKA):
                    away(stack, service, AWAY_SECONDS)
                    took[service] = lag.until_below(BEHIND_SECONDS, RECOVERY_SECONDS)
                crew.wait_ready()
                line.settle(load)
                account = line.account(load)
    print(took, crew.ended, account)
    assert account.clean, account
