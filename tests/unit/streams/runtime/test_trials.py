"""When a death counts against an input, and what is done about it."""

from __future__ import annotations

import msgspec
import pytest

from streams.runtime.stage import WHOLE
from streams.runtime.trials import ISOLATED_FROM, MOST_ALONE, Trial, begun, next_trial, row_of, trial_of, untried


def test_a_process_that_got_further_begins_at_one_again() -> None:
    assert next_trial(None, 7, 100) == Trial(offset=7, attempts=1)
    assert next_trial(Trial(offset=7, attempts=1), 8, 100) == Trial(offset=8, attempts=1)
    assert next_trial(Trial(offset=7, attempts=1), 3, 100) == Trial(offset=3, attempts=1)


def test_after_a_death_without_progress_inputs_are_applied_alone() -> None:
    assert next_trial(Trial(offset=7, attempts=1), 7, 20) == Trial(offset=7, attempts=2, until=20)
    assert next_trial(Trial(offset=7, attempts=1), 7, 7).until == 8
    assert next_trial(Trial(offset=7, attempts=1), 7, 1_000_000).until == 7 + MOST_ALONE


def test_the_input_at_which_a_process_died_alone_is_isolated() -> None:
    third = next_trial(Trial(offset=7, attempts=2, until=20), 11, 30)
    assert (third.offset, third.attempts, third.until, third.condemned) == (11, ISOLATED_FROM, 30, ())


def test_behind_what_was_applied_alone_nothing_is_suspected() -> None:
    assert next_trial(Trial(offset=7, attempts=2, until=20), 20, 30) == Trial(offset=20, attempts=1)


def test_a_part_that_was_marked_at_two_deaths_is_left_out_from_then_on() -> None:
    fourth = next_trial(Trial(offset=11, attempts=3, until=12, parts=(b"a", b"b")), 11, 12)
    assert (fourth.attempts, fourth.condemned, fourth.suspects, fourth.parts) == (4, (), (b"a", b"b"), ())
    fifth = next_trial(msgspec.structs.replace(fourth, parts=(b"b", b"c")), 11, 12)
    assert (fifth.condemned, fifth.suspects) == ((b"b",), (b"a", b"c"))
    sixth = next_trial(msgspec.structs.replace(fifth, parts=(b"c",)), 11, 12)
    assert (sixth.condemned, sixth.suspects) == ((b"b", b"c"), (b"a",))
    behind = next_trial(sixth, 12, 13)
    assert (behind.condemned, behind.suspects) == ((), ())


def test_two_deaths_before_any_part_leave_out_the_whole_input() -> None:
    trial = Trial(offset=11, attempts=1)
    for _ in range(3):
        trial = next_trial(begun(trial), 11, 12)
        assert trial.condemned == ()
    assert next_trial(begun(trial), 11, 12).condemned == (WHOLE,)


def test_deaths_once_the_core_was_done_count_against_nobody() -> None:
    trial = Trial(offset=11, attempts=2, until=12)
    for _ in range(6):
        assert next_trial(untried(trial), 11, 12) == trial
    isolated = next_trial(begun(trial), 11, 12)
    for _ in range(6):
        assert next_trial(untried(isolated), 11, 12) == isolated


def test_a_death_at_a_later_input_points_at_it_even_when_the_attempt_was_taken_back() -> None:
    later = next_trial(untried(Trial(offset=7, attempts=2, until=20)), 11, 30)
    assert (later.offset, later.attempts) == (11, ISOLATED_FROM)


def test_deaths_at_earlier_inputs_never_leave_out_a_later_one() -> None:
    """A worker killed again and again from outside gets further each time: all its inputs are innocent."""
    trial = Trial(offset=7, attempts=1)
    for offset in (7, 7, 7, 8, 20, 60, 61, 61):
        trial = next_trial(begun(trial), offset, 1_000)
        assert trial.condemned == ()
    assert trial.attempts == ISOLATED_FROM + 1


@pytest.mark.parametrize("trial", [Trial(offset=1, attempts=1), Trial(offset=2, attempts=3, until=5, parts=(b"x",))])
def test_rows_are_read_back(trial: Trial) -> None:
    row = row_of(trial)
    assert trial_of(row.value or b"", row.schema) == trial
