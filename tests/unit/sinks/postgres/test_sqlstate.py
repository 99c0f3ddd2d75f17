"""Errors are judged by SQLSTATE alone, and described without row values."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from sinks.postgres.sqlstate import Verdict, describe, verdict_of


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (errors.AdminShutdown, Verdict.AGAIN),
        (errors.CannotConnectNow, Verdict.AGAIN),
        (errors.ConnectionFailure, Verdict.AGAIN),
        (errors.DeadlockDetected, Verdict.AGAIN),
        (errors.DiskFull, Verdict.AGAIN),
        (errors.FeatureNotSupported, Verdict.AGAIN),
        (errors.IdleInTransactionSessionTimeout, Verdict.AGAIN),
        (errors.LockNotAvailable, Verdict.AGAIN),
        (errors.QueryCanceled, Verdict.AGAIN),
        (errors.ReadOnlySqlTransaction, Verdict.AGAIN),
        (errors.SerializationFailure, Verdict.AGAIN),
        (errors.TooManyConnections, Verdict.AGAIN),
        (errors.CheckViolation, Verdict.PARTITION),
        (errors.InsufficientPrivilege, Verdict.SCHEMA),
        (errors.InvalidPassword, Verdict.SCHEMA),
        (errors.UndefinedColumn, Verdict.SCHEMA),
        (errors.UndefinedTable, Verdict.SCHEMA),
        (errors.DatetimeFieldOverflow, Verdict.DATA),
        (errors.NotNullViolation, Verdict.DATA),
        (errors.UntranslatableCharacter, Verdict.DATA),
        (errors.InvalidBinaryRepresentation, Verdict.BUG),
        (psycopg.OperationalError, Verdict.AGAIN),
        (psycopg.DataError, Verdict.BUG),
    ],
)
def test_verdicts(error: type[psycopg.Error], verdict: Verdict) -> None:
    # A check violation without a constraint's name, as here, is a missing partition.
    assert verdict_of(error("some text")) is verdict


def test_a_server_text_that_may_quote_values_is_left_out() -> None:
    assert describe(errors.NotNullViolation("Failing row contains (10.0.0.1)")) == "NotNullViolation (23502)"


def test_a_text_about_the_schema_is_kept() -> None:
    told = describe(errors.UndefinedTable('relation "vm" does not exist\nLINE 1'))
    assert told == 'UndefinedTable (42P01): relation "vm" does not exist LINE 1'
