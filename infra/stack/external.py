"""Servers the user already has: asked once whether they answer, then named in the endpoints."""

from __future__ import annotations

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from infra.runtime.errors import ConfigError, NeighbourUnreachable
from infra.runtime.kafka import wait_for_kafka
from infra.stack.files import write_atomically
from infra.stack.http import get
from infra.stack.layout import StackPaths
from infra.stack.server import NotReady
from infra.stack.services import ServiceName
from infra.stack.settings import StackSettings

_TIMEOUT_SECONDS = 10


def check(service: ServiceName, settings: StackSettings) -> None:
    """Make one real request of the user's server; raise NeighbourUnreachable when it is not answered.

    Waits ten seconds at most. Does nothing for a service whose address is not set.
    """
    address = settings.address_of(service)
    if address is None:
        return
    match service:
        case ServiceName.KAFKA:
            kafka = settings.kafka.model_copy(update={"bootstrap": address})
            wait_for_kafka(kafka, timeout_seconds=_TIMEOUT_SECONDS)
        case ServiceName.POSTGRES:
            _check_postgres(address)
        case ServiceName.VICTORIAMETRICS:
            _check_http("VictoriaMetrics", address, "/health")
        case ServiceName.PROMETHEUS:
            _check_http("Prometheus", address, "/-/ready")


def split_password(dsn: str) -> tuple[str, str | None]:
    """Return the conninfo without its password, and the password if it held one; ConfigError if it is malformed."""
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # Not chained: the text of that error may repeat the password.
        raise ConfigError(
            "not a libpq conninfo or URL",
            where="stack.postgres_dsn",
            advice="write it as host=… port=… dbname=… user=…",
        ) from None
    password = parts.pop("password", None)
    return make_conninfo("", **parts), None if password is None else str(password)


def write_password(paths: StackPaths, dsn: str) -> None:
    """Keep the password of the user's database where every part looks for the superuser's."""
    _, password = split_password(dsn)
    if password is not None:
        paths.secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(paths.secrets / "postgres", password.encode() + b"\n", mode=0o600)


def _check_postgres(dsn: str) -> None:
    public, _ = split_password(dsn)
    try:
        with psycopg.connect(dsn, connect_timeout=_TIMEOUT_SECONDS) as connection:
            connection.execute("SELECT 1")
    except psycopg.Error as error:
        raise NeighbourUnreachable(
            f"no usable answer ({str(error).strip().splitlines()[-1]})",
            where=f"PostgreSQL at {public}",
            advice="start it, or mend stack.postgres_dsn",
        ) from error


def _check_http(kind: str, address: str, path: str) -> None:
    try:
        get(address.rstrip("/") + path, _TIMEOUT_SECONDS)
    except NotReady as error:
        raise NeighbourUnreachable(
            str(error), where=f"{kind} at {address}", advice=f"start it, or mend stack.{kind.lower()}_url"
        ) from error
