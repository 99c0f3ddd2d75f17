"""What a stack remembers between runs: ports, processes and places chosen outside its directory."""

from __future__ import annotations

from pathlib import Path

import msgspec

from infra.runtime.errors import ConfigError
from infra.stack.files import read_json, write_json
from infra.stack.processes import ProcessIdentity


class StackState(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Mutable; written after every change that a crash must not lose, always under the stack's lock."""

    ports: dict[str, int] = msgspec.field(default_factory=dict)
    """By listener: the service's name, or ``<service>/<listener>`` for a second one."""
    processes: dict[str, ProcessIdentity] = msgspec.field(default_factory=dict)
    """By service: what was started and not yet stopped. The process may have died since."""
    places: dict[str, Path] = msgspec.field(default_factory=dict)
    """By service: the directory of its data where that is not below the stack's own."""
    kafka_cluster_id: str | None = None


def read_state(path: Path) -> StackState:
    """Return the remembered state, an empty one at first; raise ConfigError when the file is damaged."""
    try:
        return read_json(path, StackState)
    except FileNotFoundError:
        return StackState()
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"not a stack's state: {error}", where=str(path), advice="run `deltavisor stack reset`, or delete the file"
        ) from error


def write_state(path: Path, state: StackState) -> None:
    """Write the state in one step."""
    write_json(path, state)
