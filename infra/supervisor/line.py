"""The whole line as parts: which processes, with which settings, in which order.

Settings go through one file in the stack's directory, so that what runs can be read there, and started by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from infra.runtime.settings import TopicSettings
from infra.stack.endpoints import Endpoints
from infra.stack.ports import choose
from infra.supervisor.part import Part
from sinks.postgres.settings import RoleSettings

SINKS, STAGES, AGENTS = 0, 1, 2
"""Tiers: readers start first and stop last, so that a stopping line drains downstream."""


class LineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a line consists of beside its servers."""

    hosts_workers: int = 1
    vms_workers: int = 1
    sink_workers: int = 1
    topics: TopicSettings = TopicSettings()
    topic_prefix: str = ""
    simulator: Sequence[str] | None = None
    """Arguments of a simulated fleet's agent; None starts none."""
    libvirt: Sequence[str] | None = None
    """Arguments of a libvirt agent; None starts none."""
    console_logs: bool = False
    """Lines for people instead of JSON."""
    tables: Mapping[str, Mapping[str, Any]] = {}
    """Further settings by table, above what the line itself sets."""


def write_settings(path: Path, endpoints: Endpoints, options: LineOptions) -> Path:
    """Write the settings file that every part of the line is started with; it holds paths to secrets, never secrets."""
    secrets = endpoints.secrets_dir
    tables: dict[str, dict[str, Any]] = {
        "kafka": {"bootstrap": endpoints.kafka, "topic_prefix": options.topic_prefix},
        "topics": {
            "partitions": options.topics.partitions,
            "replication_factor": options.topics.replication_factor,
            "min_insync_replicas": options.topics.min_insync_replicas,
        },
        "log": {"format": "console" if options.console_logs else "json"},
        "hosts": {"tick_key_file": str(secrets / "tick_key")},
        "vms": {"intent_key_file": str(secrets / "tick_key")},
        "postgres": {
            "dsn": psycopg.conninfo.make_conninfo(endpoints.postgres, user=RoleSettings().sink),
            "password_file": str(secrets / "pg_sink"),
            "group": f"{options.topic_prefix}deltavisor-sink-postgres",
        },
    }
    for name, table in options.tables.items():
        tables.setdefault(name, {}).update(table)
    path.write_bytes(_toml(tables))
    return path


def _toml(tables: Mapping[str, Mapping[str, Any]]) -> bytes:
    """TOML of flat tables; JSON's strings, numbers and booleans are TOML's too."""
    lines = []
    for name, table in tables.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in table.items()]
    return ("\n".join(lines) + "\n").encode()


def parts_of(config: Path, options: LineOptions) -> list[Part]:
    """The parts, each with a port of its own for /livez, /readyz and /metrics."""
    workers = [
        *(("sink", "postgres", SINKS, number) for number in range(options.sink_workers)),
        *(("stream", "vms", STAGES, number) for number in range(options.vms_workers)),
        *(("stream", "hosts", STAGES, number) for number in range(options.hosts_workers)),
    ]
    ports: set[int] = set()
    parts: list[Part] = []
    for command, component, tier, number in workers:
        names = {"WORKER_NAME": str(number + 1)}
        parts.append(_part(f"{component}-{number + 1}", (command, component), component, config, tier, names, ports))
    for source, arguments in (("simulator", options.simulator), ("libvirt", options.libvirt)):
        if arguments is not None:
            command_line = ("agent", "--source", source, *arguments)
            parts.append(_part(f"agent-{source}", command_line, "agent", config, AGENTS, {}, ports))
    return parts


def _part(
    name: str,
    command: Sequence[str],
    component: str,
    config: Path,
    tier: int,
    environment: Mapping[str, str],
    ports: set[int],
) -> Part:
    port = choose(None, ports)
    ports.add(port)
    variables = {"HTTP__PORT": str(port), **environment}
    return Part(
        name=name,
        argv=(sys.executable, "-m", "infra.cli.main", *command, "--config", str(config)),
        environment={f"DELTAVISOR_{component.upper()}__{field}": value for field, value in variables.items()},
        tier=tier,
        http_port=port,
    )
