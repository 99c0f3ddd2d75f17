"""Which input comes next, and what happens to any other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.runtime.errors import OffsetHole, TopicMismatch
from streams.runtime.continuity import Crossed, InputBounds, Verdict, cross, first_offset, judge

WHERE = "host.reports[0]"


def _bounds(start: int = 0, end: int = 100, committed: int | None = None) -> InputBounds:
    return InputBounds(start=start, end=end, committed=committed)


@pytest.mark.parametrize(
    ("applied", "bounds", "first"),
    [
        (-1, _bounds(), 0),
        (-1, _bounds(start=7), 7),
        (-1, _bounds(committed=40), 40),
        (-1, _bounds(start=50, committed=40), 40),  # seen as a gap when the first record comes
        (9, _bounds(), 10),
        (9, _bounds(committed=4), 10),
        (9, _bounds(committed=40), 10),
        (99, _bounds(committed=100), 100),
    ],
)
def test_the_table_decides_then_the_group_then_the_log(applied: int, bounds: InputBounds, first: int) -> None:
    assert first_offset(applied, bounds, where=WHERE) == first


@pytest.mark.parametrize(("applied", "committed"), [(100, None), (-1, 101)])
def test_a_log_that_ends_before_what_was_applied_is_refused(applied: int, committed: int | None) -> None:
    with pytest.raises(TopicMismatch, match=r"host\.reports\[0\]: the log ends at offset 100, .* below 101 was"):
        first_offset(applied, _bounds(committed=committed), where=WHERE)


@given(st.integers(0, 1_000), st.integers(0, 1_000))
def test_every_record_has_one_verdict(expected: int, offset: int) -> None:
    verdicts = {offset < expected: Verdict.REPEAT, offset == expected: Verdict.APPLY, offset > expected: Verdict.HOLE}
    assert judge(expected, offset) is verdicts[True]


@given(st.integers(0, 1_000), st.integers(1, 1_000), st.integers(0, 3_000))
def test_a_hole_is_crossed_only_when_nothing_in_it_can_exist(expected: int, missing: int, log_start: int) -> None:
    offset = expected + missing
    if log_start >= offset:
        crossed = Crossed(first_missing=expected, next_offset=offset)
        assert cross(expected, offset, log_start, where=WHERE) == crossed
    else:
        with pytest.raises(OffsetHole) as hole:
            cross(expected, offset, log_start, where=WHERE)
        assert f"expected offset {expected}, got {offset}" in str(hole.value)
        assert hole.value.exit_code == 73
