"""What people see of a record."""

import json

import pytest

from infra.cli.describe import as_json, clock, describe
from tests.unit.schemas.samples import HOST_TEXT, SAMPLES, VM_TEXT

LINES = {
    "HostReport.changes": "10111213 seq 3 1 VMs 1 changed, 1 gone",
    "HostReport.heartbeat": "10111213 seq 3 1 VMs heartbeat",
    "HostReport.snapshot": "10111213 seq 3 1 VMs snapshot 2/2 with 1 VMs",
    "HostReport.farewell": "10111213 seq 3 1 VMs farewell stopped by its supervisor",
    "Tick": "tick 9",
    "ObservationBatch": "from partition 2 at tick 9: 2 reports, 2 VMs",
    "Intent": "operator@example wants edit of 00010203",
    "IntentCopy": "copy of intent 5",
    "ResyncRequest": "vms asks for a forced snapshot: rejected facet",
    "VmChange": f"v4 reported paused unknown/judging on {HOST_TEXT} exit error/qemu_died run(pause_reason status)",
    "VmHead": f"v4 paused unknown on {HOST_TEXT}",
    "HostChange": "v2 host silent host_system clock_skewed",
    "HostState": "v2 silent 300 VMs, heard 08:00:00.000",
}


@pytest.mark.parametrize("name", sorted(LINES))
def test_every_record_has_its_line(name: str) -> None:
    assert describe(SAMPLES[name]) == LINES[name]


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_every_record_is_json_with_ids_as_text(name: str) -> None:
    message = json.loads(as_json(SAMPLES[name]))
    if name.startswith("HostReport"):
        assert message["host_id"] == HOST_TEXT
    if name == "VmChange":
        assert message["vm_id"] == VM_TEXT
        assert message["facets"]["run"]["after"]["status"] == "paused"
    assert message


def test_time_of_day_is_utc() -> None:
    assert clock(1_800_000_000_123_000_000) == "08:00:00.123"
