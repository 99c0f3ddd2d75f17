"""A database per test, cloned from one that was migrated once; and topics of its own for each test that needs Kafka."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from infra.runtime.settings import KafkaSettings, Secret, TopicSettings
from infra.runtime.topics import HOST_CHANGES, VM_CHANGES, TopicAdmin
from infra.stack.endpoints import Endpoints
from sinks.postgres.schema import migrate_database
from sinks.postgres.settings import Database, PostgresSettings, RoleSettings
from sinks.postgres.writer import Writer

Admin = psycopg.Connection[tuple[Any, ...]]

PARTITIONS = 2


def superuser(endpoints: Endpoints, database: str) -> Database:
    """The embedded server's superuser in one database."""
    password = Secret((endpoints.secrets_dir / "postgres").read_text().strip())
    return Database(dsn=make_conninfo(endpoints.postgres, dbname=database), password=password)


def connect(database: Database) -> Admin:
    """A plain connection, in autocommit."""
    password = database.password.reveal() if database.password is not None else None
    return psycopg.connect(database.dsn, password=password, autocommit=True)


@pytest.fixture(scope="session")
def template(endpoints: Endpoints) -> str:
    """Name of a migrated database, to be cloned."""
    name = f"sink_template_{secrets.token_hex(4)}"
    with connect(superuser(endpoints, "postgres")) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    password = Secret((endpoints.secrets_dir / "pg_sink").read_text().strip())
    migrate_database(superuser(endpoints, name), RoleSettings(sink_password=password))
    return name


@pytest.fixture
def database(endpoints: Endpoints, template: str) -> Iterator[Database]:
    """A migrated, empty database, as its superuser."""
    name = f"sink_{secrets.token_hex(4)}"
    with connect(superuser(endpoints, "postgres")) as server:
        server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
    yield superuser(endpoints, name)
    with connect(superuser(endpoints, "postgres")) as server:
        server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def empty(endpoints: Endpoints) -> Iterator[Database]:
    """A database that was never migrated."""
    name = f"sink_{secrets.token_hex(4)}"
    with connect(superuser(endpoints, "postgres")) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield superuser(endpoints, name)
    with connect(superuser(endpoints, "postgres")) as server:
        server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def admin(database: Database) -> Iterator[Admin]:
    """Looks into the database and does what operators do."""
    with connect(database) as connection:
        yield connection


@pytest.fixture
def make_writer(database: Database) -> Iterator[Callable[[], Writer]]:
    """Writers with the sink's rights."""
    made: list[Writer] = []

    def make() -> Writer:
        writer = Writer(msgspec.structs.replace(database, role="deltavisor_sink"))
        writer.open()
        made.append(writer)
        return writer

    yield make
    for writer in made:
        writer.close()


@pytest.fixture
def settings(endpoints: Endpoints, database: Database) -> PostgresSettings:
    """A sink of this test: its database, its topics, its group."""
    prefix = f"t{secrets.token_hex(4)}."
    kafka = KafkaSettings(bootstrap=endpoints.kafka, topic_prefix=prefix)
    topics = TopicSettings(partitions=PARTITIONS)
    TopicAdmin(kafka, topics).apply((VM_CHANGES, HOST_CHANGES))
    return PostgresSettings(
        kafka=kafka,
        topics=topics,
        dsn=make_conninfo(database.dsn, user="deltavisor_sink"),
        password=Secret((endpoints.secrets_dir / "pg_sink").read_text().strip()),
        group=prefix + "sink",
        session_timeout_seconds=6.0,
    )


@pytest.fixture
def password_file(endpoints: Endpoints) -> Path:
    """The sink's password, as the stack keeps it."""
    return endpoints.secrets_dir / "pg_sink"
