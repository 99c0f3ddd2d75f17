"""Where a stack keeps its things on disk.

<base>/                      .stack of the checkout, or DELTAVISOR_STACK_DIR
  cache/                     fetched once, used by every stack
  <name>/
    stack.json               what must be remembered: ports, processes, places
    endpoints.json           what others may know
    lock                     held while a stack is being started, stopped or reset
    secrets/  logs/          0700; one log file per server
    kafka/  postgres/  …     configuration and data of each server
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from infra.runtime.errors import ConfigError
from infra.stack.services import ServiceName

REPOSITORY = Path(__file__).resolve().parents[2]
BASE_VARIABLE = "DELTAVISOR_STACK_DIR"
CACHE = "cache"

# They separate paths, or end them, in a Java class path, Kafka's log.dirs and configuration files.
_UNUSABLE = re.compile(r"""["'\\:,\x00-\x1f]""")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,47}")


def default_base() -> Path:
    """Return the directory that holds all stacks of this checkout."""
    chosen = os.environ.get(BASE_VARIABLE)
    return Path(chosen).expanduser().resolve() if chosen else REPOSITORY / ".stack"


@dataclass(frozen=True, kw_only=True)
class StackPaths:
    """The paths of one stack. Nothing here touches the disk."""

    name: str
    base: Path
    cache: Path

    @classmethod
    def of(cls, name: str, base: Path | None = None, cache: Path | None = None) -> StackPaths:
        """Return the paths of the stack called ``name``; raise ConfigError when the name cannot be a directory."""
        if not _NAME.fullmatch(name) or name == CACHE:
            raise ConfigError(
                f"{name!r} cannot name a stack",
                advice="use up to 48 lower-case letters, digits, '-', '_' or '.', and not 'cache'",
            )
        base = (base or default_base()).resolve()
        cache = (cache or base / CACHE).resolve()
        for directory in (base, cache):
            if _UNUSABLE.search(str(directory)):
                raise ConfigError(
                    "a path with a quote, backslash, colon, comma or control character cannot hold a stack",
                    where=str(directory),
                    advice=f"set {BASE_VARIABLE} to another directory",
                )
        return cls(name=name, base=base, cache=cache)

    @property
    def root(self) -> Path:
        """Directory of this stack alone."""
        return self.base / self.name

    @property
    def state(self) -> Path:
        """File of `state.StackState`."""
        return self.root / "stack.json"

    @property
    def endpoints(self) -> Path:
        """File of `endpoints.Endpoints`."""
        return self.root / "endpoints.json"

    @property
    def lock(self) -> Path:
        """File whose lock guards every change to the stack."""
        return self.root / "lock"

    @property
    def secrets(self) -> Path:
        """Directory of passwords and keys, one file each."""
        return self.root / "secrets"

    @property
    def logs(self) -> Path:
        """Directory of the servers' logs."""
        return self.root / "logs"

    def log(self, service: ServiceName) -> Path:
        """Log file of one server."""
        return self.logs / f"{service}.log"

    def home(self, service: ServiceName) -> Path:
        """Directory of one server's configuration and data."""
        return self.root / service
