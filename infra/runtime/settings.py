"""One frozen settings object per component, built once in its ``main``: file, then environment, then flags.

A TOML file may hold a table per component, such as ``[agent]`` and ``[hosts]``. The tables ``[kafka]``, ``[topics]``
and ``[log]`` are shared: they fill the field of that name in every component that has one, below what the component's
own table says (``[agent.kafka]``). Variables follow the same rule: ``DELTAVISOR_KAFKA__BOOTSTRAP`` is for all,
``DELTAVISOR_AGENT__KAFKA__BOOTSTRAP`` for the agent. Unknown names are errors everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from infra.runtime.errors import ConfigError
from infra.runtime.secret import Secret
from infra.runtime.settings_sources import (
    ENVIRONMENT_PREFIX,
    Given,
    given_by_environment,
    given_by_file,
    given_by_flags,
    near,
    read_toml,
    resolve,
)

__all__ = [
    "ComponentSettings",
    "HttpSettings",
    "KafkaSettings",
    "LogFormat",
    "LogSettings",
    "Secret",
    "SecurityProtocol",
    "SubSettings",
    "TopicSettings",
]

SHARED_TABLES = frozenset({"kafka", "topics", "log"})
COMPONENTS = frozenset(
    {
        "agent",
        "simulator",
        "libvirt",
        "hosts",
        "vms",
        "storage",
        "replay",
        "postgres",
        "timeseries",
        "stack",
        "demo",
        "cli",
    }
)
"""The tables a settings file may have. A program reads its own and the shared ones, but a typing error in any
table name is found by every program."""


class SubSettings(BaseSettings):
    """A group of fields within a component's settings. Frozen; reads neither environment nor files by itself."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


class SecurityProtocol(Enum):
    """Kafka's ``security.protocol``."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"

    @property
    def uses_tls(self) -> bool:
        return self in (SecurityProtocol.SSL, SecurityProtocol.SASL_SSL)

    @property
    def uses_sasl(self) -> bool:
        return self in (SecurityProtocol.SASL_PLAINTEXT, SecurityProtocol.SASL_SSL)


class KafkaSettings(SubSettings):
    """How to reach Kafka. Contradictions (a password without SASL, a key without TLS) are errors, never ignored."""

    bootstrap: str = "127.0.0.1:9092"
    """``host:port``, several separated by commas."""
    security_protocol: SecurityProtocol = SecurityProtocol.PLAINTEXT
    ssl_ca_location: Path | None = None
    """CA certificates (PEM) that sign the brokers; None means the system's."""
    ssl_certificate_location: Path | None = None
    ssl_key_location: Path | None = None
    ssl_key_password: Secret | None = None
    ssl_verify_hostname: bool = True
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    sasl_password: Secret | None = None
    topic_prefix: str = Field(default="", max_length=100, pattern=r"^[a-zA-Z0-9._-]*$")
    """Put before every topic name, so that several fleets can share a broker, as in ``lab.``."""
    client_id: str = Field(default="deltavisor", min_length=1, max_length=200, pattern=r"^[a-zA-Z0-9._-]+$")

    @field_validator("bootstrap")
    @classmethod
    def _addresses_have_ports(cls, bootstrap: str) -> str:
        for address in bootstrap.split(","):
            host, _, port = address.strip().rpartition(":")
            if not host or "/" in host or not (port.isdecimal() and 0 < int(port) < 65_536):
                raise ValueError(f"{address.strip()!r} is not host:port")
        return bootstrap

    @model_validator(mode="after")
    def _security_is_consistent(self) -> Self:
        protocol = self.security_protocol
        sasl = (self.sasl_mechanism, self.sasl_username, self.sasl_password)
        tls = (self.ssl_ca_location, self.ssl_certificate_location, self.ssl_key_location, self.ssl_key_password)
        if protocol.uses_sasl and not all(sasl):
            raise ValueError(f"{protocol.value} needs sasl_mechanism, sasl_username and sasl_password")
        if not protocol.uses_sasl and any(value is not None for value in sasl):
            raise ValueError(f"sasl_* is set, but security_protocol is {protocol.value}: use SASL_SSL")
        if not protocol.uses_tls and any(value is not None for value in tls):
            raise ValueError(f"ssl_* is set, but security_protocol is {protocol.value}: use SSL or SASL_SSL")
        if (self.ssl_certificate_location is None) != (self.ssl_key_location is None):
            raise ValueError("ssl_certificate_location and ssl_key_location go together")
        return self


class TopicSettings(SubSettings):
    """The shape of a topic set, equal in every component of a fleet."""

    partitions: int = Field(default=4, ge=1, le=1024)
    """Of every topic in the set; fixed for its life. 4 suits one machine, 24 a production cluster."""
    replication_factor: int = Field(default=1, ge=1, le=10)
    min_insync_replicas: int = Field(default=1, ge=1, le=10)

    @model_validator(mode="after")
    def _writable_with_all_replicas(self) -> Self:
        if self.min_insync_replicas > self.replication_factor:
            raise ValueError("min_insync_replicas is above replication_factor: nothing could ever be written")
        return self


class HttpSettings(SubSettings):
    """Where ``/metrics``, ``/livez`` and ``/readyz`` are served."""

    host: str = "127.0.0.1"
    port: int | None = Field(default=0, ge=0, le=65_535)
    """0 takes a free port and logs it; None, written "off", serves nothing."""
    token: Secret | None = None
    """Needed to listen on anything but loopback; clients send it as ``Authorization: Bearer``."""

    @field_validator("port", mode="before")
    @classmethod
    def _off_is_none(cls, port: object) -> object:
        return None if port == "off" else port


class LogFormat(Enum):
    """How log lines are written to stderr."""

    JSON = "json"
    CONSOLE = "console"


class LogSettings(SubSettings):
    """What is logged, and how."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: LogFormat = LogFormat.JSON


class ComponentSettings(SubSettings):
    """Base of every component's settings. A subclass sets ``component``, the name of its table and variables."""

    component: ClassVar[str]
    _known: ClassVar[set[str]] = set(COMPONENTS)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "component" in cls.__dict__:
            ComponentSettings._known.add(cls.component)

    @classmethod
    def load(cls, file: Path | None, env: Mapping[str, str] | None, overrides: Mapping[str, Any] | None = None) -> Self:
        """The settings from all three places, the later winning. Only ``main`` calls this, with ``os.environ``.

        ``env`` None reads no variables. ``overrides`` are flags by field name, nested or dotted (``kafka.bootstrap``);
        those that are None were not given. A field of type Secret may be given as ``<field>_file`` instead.
        Raises ConfigError naming every bad value with the place that gave it; nothing has been read or written then.
        """
        merged: dict[str, Any] = {}
        places: dict[tuple[str, ...], str] = {}
        for raw in cls._given(file, env or {}, overrides or {}):
            given = resolve(cls, raw)
            target = merged
            for name in given.path[:-1]:
                target = target.setdefault(name, {})
            target[given.path[-1]] = given.value
            places[given.path] = given.place
        try:
            return cls(**merged)
        except ValidationError as error:
            raise _explain(cls.component, error, places) from error

    @classmethod
    def _given(cls, file: Path | None, env: Mapping[str, str], overrides: Mapping[str, Any]) -> Iterator[Given]:
        shared = sorted(SHARED_TABLES & cls.model_fields.keys())
        known = SHARED_TABLES | cls._known
        if file is not None:
            tables = read_toml(file)
            for name in sorted(tables.keys() - known):
                raise ConfigError(f"unknown table [{name}]", where=str(file), advice=near(name, known))
            for name in shared:
                yield from given_by_file(file, name, (name,), tables.get(name, {}))
            yield from given_by_file(file, cls.component, (), tables.get(cls.component, {}))
        for variable in sorted(env):
            owner, nested, _ = variable.removeprefix(ENVIRONMENT_PREFIX).partition("__")
            if variable.startswith(ENVIRONMENT_PREFIX) and nested and owner.lower() not in known:
                raise ConfigError(
                    f"unknown component {owner.lower()!r}", where=variable, advice=near(owner.lower(), known)
                )
        for name in shared:
            yield from given_by_environment(env, name, (name,))
        yield from given_by_environment(env, cls.component, ())
        yield from given_by_flags(overrides)


def _explain(component: str, error: ValidationError, places: Mapping[tuple[str, ...], str]) -> ConfigError:
    """All bad values in one error: each with its field, what is wrong and the place that gave it; never the value."""
    complaints = []
    for item in error.errors(include_url=False, include_input=False):
        path = tuple(str(part) for part in item["loc"])
        place = next((places[path[:end]] for end in range(len(path), 0, -1) if path[:end] in places), None)
        field = ".".join(path) or "settings"
        message = item["msg"].removeprefix("Value error, ")
        complaints.append(f"{field}: {message}" + (f" (from {place})" if place else ""))
    return ConfigError(
        "; ".join(complaints), where=f"settings of {component}", advice="mend the value where it was given"
    )
