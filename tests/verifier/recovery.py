"""The recovery bound (I5), from times that a harness measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tests.verifier.findings import Finding, Kind, Report

LAG_BOUND_SECONDS = 10.0
BASE_SECONDS = 10.0


class Passage(NamedTuple):
    """One event: when it went in and when it came out, on one clock, in seconds."""

    into: float
    out: float


class Recovery(NamedTuple):
    """How a line came back after a fault."""

    seconds: float
    """From the end of the fault until the lag stayed below the bound."""
    bound_seconds: float


def recovery_bound(outage_seconds: float, in_per_second: float, capacity_per_second: float) -> float:
    """`10 s + outage * in / (capacity - in)`; raises ValueError when the capacity is not above the load."""
    if capacity_per_second <= in_per_second:
        raise ValueError(f"a line of {capacity_per_second}/s never catches up with {in_per_second}/s")
    return BASE_SECONDS + outage_seconds * in_per_second / (capacity_per_second - in_per_second)


def recovery_seconds(passages: Sequence[Passage], cleared_at: float) -> float:
    """Seconds from `cleared_at` until the last event came out that had waited too long; 0 when none had."""
    late = [one.out for one in passages if one.out > cleared_at and one.out - one.into >= LAG_BOUND_SECONDS]
    return max(late, default=cleared_at) - cleared_at


def check_recovery(
    report: Report,
    passages: Sequence[Passage],
    *,
    outage_seconds: float,
    cleared_at: float,
    in_per_second: float,
    capacity_per_second: float,
) -> Recovery:
    """Judge a recovery and add what is wrong to the report."""
    bound = recovery_bound(outage_seconds, in_per_second, capacity_per_second)
    seconds = recovery_seconds(passages, cleared_at)
    report.figures["recovery_seconds"], report.figures["recovery_bound_seconds"] = seconds, bound
    if seconds > bound:
        what = f"recovered after {seconds:.1f} s, the bound is {bound:.1f} s"
        report.add(Finding(kind=Kind.ABOVE_BOUND, invariant="I5", what=what))
    return Recovery(seconds, bound)
