"""Runs the sink as a process: logging, life-cycle, exit code."""

from __future__ import annotations

from infra.runtime.errors import ExitCode
from infra.runtime.lifecycle import run_service
from infra.runtime.log import configure_logging
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.worker import PostgresSink


def run(settings: PostgresSettings) -> ExitCode:
    """Run until a signal or a failure; the exit code says which."""
    configure_logging(settings.log, component=PostgresSettings.component)
    return run_service(PostgresSink(settings), settings=settings.lifecycle)


def check(settings: PostgresSettings) -> None:
    """Connect to Kafka and PostgreSQL, check topics and schema, change nothing.

    Raises ConfigError, NeighbourUnreachable, TopicMismatch, DatabaseRefused.
    """
    sink = PostgresSink(settings)
    try:
        sink.check()
    finally:
        sink.close()
