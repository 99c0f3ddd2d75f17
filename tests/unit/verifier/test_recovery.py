"""The recovery bound (I5) and the verdict's two forms."""

from __future__ import annotations

import json

import pytest

from tests.verifier.findings import SHOWN_PER_KIND, Finding, Kind, Report
from tests.verifier.recovery import Passage, check_recovery, recovery_bound, recovery_seconds


def test_the_bound_grows_with_the_outage_and_the_load() -> None:
    assert recovery_bound(60.0, 1_000.0, 4_000.0) == pytest.approx(30.0)
    with pytest.raises(ValueError, match="never catches up"):
        recovery_bound(60.0, 4_000.0, 4_000.0)


def test_recovery_ends_with_the_last_event_that_waited_too_long() -> None:
    passages = [Passage(0.0, 0.1), Passage(5.0, 31.0), Passage(20.0, 35.0), Passage(30.0, 36.0)]
    assert recovery_seconds(passages, cleared_at=30.0) == pytest.approx(5.0)
    assert recovery_seconds([Passage(1.0, 2.0)], cleared_at=30.0) == 0.0


@pytest.mark.parametrize(("capacity", "silent"), [(1_100.0, True), (100_000.0, False)])
def test_a_slow_recovery_is_a_finding(capacity: float, silent: bool) -> None:
    report = Report()
    found = check_recovery(
        report,
        [Passage(10.0, 55.0)],
        outage_seconds=20.0,
        cleared_at=30.0,
        in_per_second=1_000.0,
        capacity_per_second=capacity,
    )
    assert report.silent is silent
    assert found.seconds == pytest.approx(25.0)
    assert report.figures["recovery_bound_seconds"] == pytest.approx(found.bound_seconds)


def test_a_flood_of_findings_is_counted_and_not_kept() -> None:
    report = Report()
    for offset in range(3 * SHOWN_PER_KIND):
        report.add(Finding(kind=Kind.LOST, invariant="I1", what="gone", topic="vm.changes", partition=1, offset=offset))
    assert report.counts[Kind.LOST] == 3 * SHOWN_PER_KIND
    assert len(report.findings) == SHOWN_PER_KIND
    assert f"and {2 * SHOWN_PER_KIND} more" in report.text()
    assert "lost (I1): vm.changes[1]@0, gone" in report.text()
    said = json.loads(report.json())
    assert said["silent"] is False
    assert said["findings"][0]["partition"] == 1
