"""Back-off: jitter, cap, reset, and no dependence on a clock or chance of its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.runtime.backoff import Backoff, Retry

POLICY = Backoff(first_seconds=1.0, cap_seconds=8.0, calm_seconds=60.0)


def test_the_ceiling_doubles_up_to_the_cap() -> None:
    assert [POLICY.ceiling_seconds(failures) for failures in range(1, 7)] == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


@given(failures=st.integers(1, 10_000), chance=st.floats(0, 1, exclude_max=True))
def test_a_delay_is_never_above_the_cap(failures: int, chance: float) -> None:
    assert 0 <= POLICY.delay_seconds(failures, lambda: chance) <= POLICY.cap_seconds


def test_failures_add_up_and_a_success_forgets_them() -> None:
    retry = Retry(POLICY)
    assert [retry.failed(now, lambda: 0.5) for now in (0.0, 1.0, 2.0)] == [0.5, 1.0, 2.0]
    assert not retry.due(3.9)
    assert retry.due(4.0)
    retry.succeeded()
    assert retry.due(0.0)
    assert retry.failed(5.0, lambda: 0.5) == 0.5


def test_a_failure_after_a_calm_time_is_the_first_again() -> None:
    retry = Retry(POLICY)
    retry.failed(0.0, lambda: 0.5)
    retry.failed(1.0, lambda: 0.5)
    assert retry.failed(62.0, lambda: 0.5) == 0.5
    assert retry.failures == 1


@pytest.mark.parametrize(("asked", "delay"), [(5.0, 5.0), (0.1, 0.5)])
def test_what_the_neighbour_asked_for_is_the_least(asked: float, delay: float) -> None:
    assert Retry(POLICY).failed(0.0, lambda: 0.5, at_least_seconds=asked) == delay
