"""The error tree: messages, exit codes, and the drawing of it in the docstring."""

from __future__ import annotations

import re

import pytest

from infra.runtime import errors
from infra.runtime.errors import (
    ConfigError,
    DeltavisorError,
    ExitCode,
    InvalidRecord,
    NeighbourUnreachable,
    PartialWrite,
    TransientError,
)


def _classes() -> list[type[DeltavisorError]]:
    found, todo = [], [DeltavisorError]
    while todo:
        error = todo.pop()
        found.append(error)
        todo += error.__subclasses__()
    return [error for error in found if error.__module__ == errors.__name__]


def test_the_drawing_lists_every_class_with_its_exit_code() -> None:
    drawn = dict(re.findall(r"(\w+) +(\d+)(?:  |$)", errors.__doc__ or "", re.MULTILINE))
    assert {name: int(code) for name, code in drawn.items()} == {
        error.__name__: int(error.exit_code) for error in _classes()
    }


def test_exit_codes_are_those_supervisors_know() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0,
        "USAGE": 2,
        "CONFIG": 64,
        "UNREACHABLE": 69,
        "INTERNAL": 70,
        "SELF_FENCED": 71,
        "WATCHDOG": 72,
        "OFFSET_HOLE": 73,
        "NEWER_VERSION": 74,
        "TOPIC_MISMATCH": 75,
        "DATABASE_REFUSED": 76,
        "TOO_MANY_BAD": 77,
        "INTERRUPTED": 130,
    }


def test_a_restart_is_worth_it_only_where_it_can_help() -> None:
    assert {int(code) for code in ExitCode if code.worth_restarting} == {69, 70, 71, 72, 73}


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigError("unknown setting 'hots'"), "unknown setting 'hots'"),
        (
            ConfigError("unknown setting 'hots'", where="a.toml [agent]", advice="did you mean 'host'?"),
            "a.toml [agent]: unknown setting 'hots'; did you mean 'host'?",
        ),
        (PartialWrite([0, 2], [1], where="vm"), "vm: 1 of 3 records were rejected"),
    ],
)
def test_a_message_says_where_what_and_what_to_do(error: DeltavisorError, text: str) -> None:
    assert str(error) == text


def test_an_invalid_record_names_its_position() -> None:
    error = InvalidRecord("host.reports", 3, 41, "seq: expected int")
    assert str(error).startswith("host.reports[3]@41: seq: expected int")
    assert (error.topic, error.partition, error.offset, error.reason) == ("host.reports", 3, 41, "seq: expected int")


def test_an_unreachable_neighbour_is_transient_and_carries_the_wait_it_asked_for() -> None:
    error = NeighbourUnreachable("no answer", where="Kafka at h:1", retry_after_seconds=2.5)
    assert isinstance(error, TransientError)
    assert error.retry_after_seconds == 2.5
    assert error.exit_code == 69
