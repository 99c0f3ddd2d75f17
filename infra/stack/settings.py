"""What a user may set about the embedded stack: servers of their own, and how much the embedded ones take."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from infra.runtime.settings import ComponentSettings, KafkaSettings, Secret
from infra.stack.services import ServiceName


class StackSettings(ComponentSettings):
    """Settings of one stack: table ``[stack]``, variables ``DELTAVISOR_STACK__<FIELD>``.

    A server named by address is the user's: it is checked, written to the endpoints, and otherwise let alone.
    """

    component: ClassVar[str] = "stack"

    kafka_bootstrap: str | None = None
    """``host:port,…`` of a Kafka of the user's."""
    kafka: KafkaSettings = KafkaSettings()
    """How to speak to that Kafka (TLS, SASL). Its own ``bootstrap`` is not looked at here."""
    postgres_dsn: Secret | None = None
    """libpq conninfo or URL of a database of the user's. A password in it is moved to the stack's secrets."""
    victoriametrics_url: str | None = None
    prometheus_url: str | None = None

    postgres_bin_dir: Path | None = None
    """``bin`` directory of an installed PostgreSQL 15 or later, instead of the embedded 18."""
    cache_dir: Path | None = None
    """Where fetched jars and programs lie; None is ``cache`` beside the stacks. Safe to share."""
    kafka_heap_mib: int = Field(default=512, ge=192, le=65_536)
    postgres_shared_buffers_mib: int = Field(default=256, ge=16, le=65_536)
    statistics_retention_days: int = Field(default=7, ge=1, le=3650)
    """How long VictoriaMetrics and Prometheus keep samples."""
    start_timeout_seconds: float = Field(default=60.0, gt=0)
    """How long one server may take from its start to its first answer."""
    durable: bool = True
    """False lets PostgreSQL skip fsync and Kafka compile less: for tests, whose data is thrown away."""

    def address_of(self, service: ServiceName) -> str | None:
        """Return the address of the user's own server for this service, None where the stack starts one."""
        match service:
            case ServiceName.KAFKA:
                return self.kafka_bootstrap
            case ServiceName.POSTGRES:
                return self.postgres_dsn.reveal() if self.postgres_dsn else None
            case ServiceName.VICTORIAMETRICS:
                return self.victoriametrics_url
            case ServiceName.PROMETHEUS:
                return self.prometheus_url
