"""Settings of the PostgreSQL sink and of `deltavisor db`: table `[postgres]`."""

from typing import ClassVar

import msgspec
from pydantic import Field

from infra.runtime.lifecycle import LifecycleSettings
from infra.runtime.settings import (
    ComponentSettings,
    HttpSettings,
    KafkaSettings,
    LogSettings,
    Secret,
    SubSettings,
    TopicSettings,
)

_ROLE = r"^[a-z_][a-z0-9_]{0,62}$"


class TimeoutSettings(SubSettings):
    """How long anything at the database may take."""

    connect_seconds: int = Field(default=5, ge=2, le=300)
    statement_seconds: int = Field(default=60, ge=1, le=3600)
    lock_seconds: int = Field(default=10, ge=1, le=3600)
    """Another session holding one of our rows longer than this makes the batch start again, with a warning."""
    idle_in_transaction_seconds: int = Field(default=15, ge=1, le=3600)
    """After this the server ends a transaction of ours that stands still, so that a frozen process can not keep the
    position row from its successor."""


class Database(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach PostgreSQL (15 or newer)."""

    dsn: str
    password: Secret | None = None
    role: str | None = None
    timeouts: TimeoutSettings = TimeoutSettings()


class RoleSettings(SubSettings):
    """Names of the roles that migrations create and grant to. Without a password a role is made without login, to be
    granted to logins of yours."""

    migrator: str = Field(default="deltavisor_migrator", pattern=_ROLE)
    """Owns the tables."""
    sink: str = Field(default="deltavisor_sink", pattern=_ROLE)
    """Writes rows, deletes facets, never changes a table."""
    reader: str = Field(default="deltavisor_reader", pattern=_ROLE)
    """Reads tables and views."""
    migrator_password: Secret | None = None
    sink_password: Secret | None = None
    reader_password: Secret | None = None


class BatchSettings(SubSettings):
    """When a batch is full or due."""

    rows: int = Field(default=5_000, ge=1, le=50_000)
    """More gains little and costs latency and memory."""
    bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    """Of Kafka message values."""
    linger_seconds: float = Field(default=0.007, ge=0, le=5)
    """Least time between the beginnings of two transactions. A change that comes after a quiet time does not wait."""


class PostgresSettings(ComponentSettings):
    """Everything the sink and the migrations are told."""

    component: ClassVar[str] = "postgres"

    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    log: LogSettings = LogSettings()
    http: HttpSettings = HttpSettings()
    lifecycle: LifecycleSettings = LifecycleSettings()
    dsn: str = "host=127.0.0.1 dbname=deltavisor"
    """libpq keywords or URI; what it leaves out comes from libpq's own variables and files."""
    password: Secret | None = None
    """Kept apart from the dsn, so that the latter can be shown; `password_file` reads it from a file."""
    role: str | None = Field(default=None, pattern=_ROLE)
    """Role to act as after connecting, if the login is a member of it; None acts as the login."""
    timeouts: TimeoutSettings = TimeoutSettings()
    roles: RoleSettings = RoleSettings()
    batch: BatchSettings = BatchSettings()
    group: str = Field(default="deltavisor-sink-postgres", pattern=r"^[a-zA-Z0-9._-]{1,200}$")
    """Kafka consumer group; it shares out partitions, the positions are the database's."""
    worker_name: str | None = Field(default=None, pattern=r"^[a-zA-Z0-9._-]{1,100}$")
    """Static identity in the group: a restart under the same name within the session timeout keeps the partitions, at
    once. Two living workers of a group must not share one: the group ends the older. None: a crash is waited out."""
    session_timeout_seconds: float = Field(default=10.0, ge=6.0, le=300.0)
    """A process that Kafka has not heard of for so long loses its partitions."""

    @property
    def database(self) -> Database:
        """The part of it that a connection needs."""
        return Database(dsn=self.dsn, password=self.password, role=self.role, timeouts=self.timeouts)
