"""What must be there before the first part starts: topics and schema. Everything here only adds what is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from infra.cli.db import ADMIN_SECRET
from infra.runtime.errors import TopicMismatch
from infra.runtime.secret import Secret
from infra.runtime.settings import KafkaSettings
from infra.runtime.topics import ALL_TOPICS, TopicAdmin
from infra.stack.endpoints import Endpoints
from infra.supervisor.line import LineOptions
from sinks.postgres.schema import migrate_database
from sinks.postgres.settings import Database, RoleSettings

Say = Callable[[str], None]


def prepare(endpoints: Endpoints, options: LineOptions, say: Say) -> None:
    """Create missing topics and bring the schema up to date; safe to repeat.

    Raises NeighbourUnreachable, TopicMismatch, DatabaseRefused.
    """
    kafka = KafkaSettings(bootstrap=endpoints.kafka, topic_prefix=options.topic_prefix)
    applied = TopicAdmin(kafka, options.topics).apply(ALL_TOPICS)
    if applied.problems:
        raise TopicMismatch(
            "; ".join(str(problem) for problem in applied.problems), where=f"Kafka at {kafka.bootstrap}"
        )
    say(f"topics: {len(applied.created)} created, {len(applied.unchanged)} as declared")
    done = migrate_database(_administrator(endpoints), _roles(endpoints.secrets_dir))
    say(f"schema: {len(done.applied)} migrations applied, {done.partitions} day partitions added")


def _administrator(endpoints: Endpoints) -> Database:
    return Database(dsn=endpoints.postgres, password=_secret(endpoints.secrets_dir / ADMIN_SECRET))


def _roles(secrets: Path) -> RoleSettings:
    return RoleSettings(
        migrator_password=_secret(secrets / "pg_migrator"),
        sink_password=_secret(secrets / "pg_sink"),
        reader_password=_secret(secrets / "pg_reader"),
    )


def _secret(path: Path) -> Secret | None:
    return Secret(path.read_text(encoding="utf-8").strip()) if path.exists() else None
