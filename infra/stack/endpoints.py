"""Where the servers of a running stack answer: what every other part needs to reach them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from infra.runtime.errors import ConfigError
from infra.stack.files import read_json, write_json
from infra.stack.layout import StackPaths


class Endpoints(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Addresses of the servers, without any secret."""

    kafka: str
    """``host:port``, comma separated where there are several."""
    postgres: str
    """libpq conninfo without a password; the superuser's lies in ``secrets_dir / "postgres"``."""
    victoriametrics: str | None
    """Base URL, None when the stack runs without it."""
    prometheus: str | None
    """Base URL, None when the stack runs without it."""
    secrets_dir: Path
    """Directory of the passwords and keys, one file each, readable by the owner alone."""
    pids: dict[str, int]
    """Process id per server the stack started. Servers of the user's own are not listed."""


def write_endpoints(path: Path, endpoints: Endpoints) -> None:
    """Write the endpoints file in one step; a reader sees the old or the new content."""
    write_json(path, endpoints)


def read_endpoints(path: Path) -> Endpoints | None:
    """Return what the file says, None when there is none; raise ConfigError when it is not ours to read."""
    try:
        return read_json(path, Endpoints)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"not a list of endpoints: {error}", where=str(path), advice="run `deltavisor stack up` to write it again"
        ) from error


def endpoints_of(name: str = "default", base: Path | None = None) -> Endpoints | None:
    """Return the endpoints of the named stack, None when it is not up. Starts and checks nothing."""
    return read_endpoints(StackPaths.of(name, base).endpoints)
