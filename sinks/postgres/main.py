"""Runs the sink as a process: logging, life-cycle, exit code."""

from __future__ import annotations

from collections.abc import Mapping

from infra.runtime.errors import ExitCode
from infra.runtime.failpoints import armed_in
from infra.runtime.lifecycle import run_service
from infra.runtime.log import configure_logging
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.worker import PostgresSink


def run(settings: PostgresSettings, environment: Mapping[str, str]) -> ExitCode:
    """Run until a signal or a failure; the exit code says which. `environment` may arm failpoints.

    Raises ConfigError for failpoints that do not exist.
    """
    configure_logging(settings.log, component=PostgresSettings.component)
    return run_service(_sink(settings, environment), settings=settings.lifecycle)


def _sink(settings: PostgresSettings, environment: Mapping[str, str]) -> PostgresSink:
    armed = armed_in(environment, settings.component)
    if armed is None:
        return PostgresSink(settings)
    from sinks.postgres.breaking import BreakableSink

    return BreakableSink(armed, settings)


def check(settings: PostgresSettings) -> None:
    """Connect to Kafka and PostgreSQL, check topics and schema, change nothing.

    Raises ConfigError, NeighbourUnreachable, TopicMismatch, DatabaseRefused.
    """
    sink = PostgresSink(settings)
    try:
        sink.check()
    finally:
        sink.close()
