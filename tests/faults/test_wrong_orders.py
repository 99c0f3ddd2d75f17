"""A line that works in a wrong order loses changes, and the fault tests' account says so."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
import pytest

from infra.stack.endpoints import Endpoints
from infra.supervisor.part import Part
from tests.faults import shots
from tests.faults.crew import Crew
from tests.faults.faulty_line import FaultyLine
from tests.faults.load import Load, LoadShape
from tests.verifier.findings import Kind

pytestmark = [pytest.mark.stack, pytest.mark.slow]

SHAPE = LoadShape(hosts=8, vms_per_host=50, changes_per_second=2_000.0)


def _parts(line: FaultyLine, order: str) -> list[Part]:
    """The line's parts, with a vms worker that works in this order."""
    argv = (sys.executable, "-m", "tests.faults.wrong", order, "--config", str(line.config))
    return [msgspec.structs.replace(part, argv=argv) if part.name == "vms-1" else part for part in line.parts()]


@pytest.mark.parametrize(
    ("order", "armed"),
    [
        ("rows-first", ["vms.outbox.rows_delivered:kill:6", "vms.outbox.rows_delivered:kill:9"]),
        ("encoded-at-flush", ["vms.outbox.rows_alone:kill:4", "vms.outbox.rows_alone:kill:7"]),
        # A flush stands still while Faust commits, once a second, what was acknowledged before it. By then every
        # partition has rows: an empty table whose input was read is refused.
        ("acks-first", ["vms.outbox.before_outputs:sleep:60:100"]),
    ],
)
def test_a_wrong_order_is_found(endpoints: Endpoints, tmp_path: Path, order: str, armed: list[str]) -> None:
    with FaultyLine(endpoints, tmp_path) as line, Crew(_parts(line, order)) as crew:
        crew.wait_ready()
        with Load(line.kafka, line.topics, SHAPE) as load:
            load.resume()
            tally = shots.fire_all(crew, {"vms-1": [shots.of(one) for one in armed]})
            crew.wait_ready()
            time.sleep(2.0)
            line.settle(load)
            account = line.account(load)
    print(account)
    assert tally.missed == []
    assert account.by_kind[Kind.LOST] > 0, account
    assert account.stored < account.accepted
