"""Whom PostgreSQL runs as: it refuses to run as root, and root has no user of ours to offer.

As root it runs as ``nobody``, which owns its data directory and nothing else. Nothing is created in the
system. Where ``nobody`` cannot reach the stack's directory (a checkout below /root, say), the data lies in a
directory of its own below /var/tmp, whose name the stack remembers.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import stat
from pathlib import Path

from infra.runtime.errors import ConfigError
from infra.stack.processes import Account

_UNPRIVILEGED = "nobody"
_ELSEWHERE = Path("/var/tmp")  # noqa: S108 (only a directory made and owned by us is used there)


def account() -> Account | None:
    """Return the user PostgreSQL must run as, None when that is the one we are."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(_UNPRIVILEGED)
    except KeyError as error:
        raise ConfigError(
            f"PostgreSQL does not run as root, and there is no user {_UNPRIVILEGED}",
            advice="run as an ordinary user, or set postgres_dsn to a database of your own",
        ) from error
    return Account(uid=entry.pw_uid, gid=entry.pw_gid)


def reachable_by_all(path: Path) -> bool:
    """True when any user may enter every directory above ``path``. What does not exist yet will be enterable."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents if parent.exists())


def place(wanted: Path) -> Path:
    """Return where a directory others must reach can be: ``wanted``, or its stand-in."""
    return wanted if reachable_by_all(wanted) else stand_in(str(wanted))


def stand_in(key: str) -> Path:
    """Return the directory below /var/tmp that stands in for what ``key`` says. It need not exist."""
    return _ELSEWHERE / f"deltavisor-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def make_reachable(directory: Path) -> None:
    """Create the directory for all to enter and us alone to write; refuse one that somebody else made."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ConfigError("exists and is not a directory of ours", where=str(directory), advice="remove it")
    directory.chmod(0o755)


def hand_over(path: Path, owner: Account | None) -> None:
    """Give a file or directory of ours to the user PostgreSQL runs as."""
    if owner is not None:
        os.chown(path, owner.uid, owner.gid)
