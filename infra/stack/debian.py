"""Programs out of Debian packages, downloaded and unpacked into the cache without installing anything."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from infra.runtime.errors import ConfigError, FatalError
from infra.stack.commands import require, run
from infra.stack.files import locked
from infra.stack.report import Step

_TIMEOUT_SECONDS = 900.0
_APT = "a Debian or Ubuntu with apt, or set the address of a server of your own"


def unpacked(cache: Path, package: str, program: str) -> Path:
    """Return where a program of a package is kept, whether or not it is there."""
    return cache / "debian" / package / "usr" / "bin" / program


def fetch_program(cache: Path, package: str, program: str, step: Step) -> Path:
    """Return the path of ``program`` out of the Debian package, downloaded when the cache does not hold it.

    An installed one is not taken: its version would not be the package's. Raises ConfigError where apt is
    missing, FatalError where the package cannot be had.
    """
    target = unpacked(cache, package, program)
    with locked(cache / "debian.lock", timeout_seconds=_TIMEOUT_SECONDS, holder="downloading packages"):
        if target.is_file():
            return target
        apt = require("apt-get", install=_APT)
        require("dpkg-deb", install=_APT)
        downloads = cache / "apt" / "downloads" / package
        shutil.rmtree(downloads, ignore_errors=True)
        downloads.mkdir(parents=True)
        step("downloading its Debian package")
        archive = _download(apt, cache / "apt", downloads, package, step)
        step("unpacking")
        _unpack(archive, target.parents[2], program)
        shutil.rmtree(downloads)
        step("fetched")
    return target


def _unpack(archive: Path, target: Path, program: str) -> None:
    """Unpack into a directory that appears in one step."""
    fresh = target.with_name(f"{target.name}.partial")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    run(["dpkg-deb", "--extract", str(archive), str(fresh)], doing=f"unpacking {archive.name}")
    if not (fresh / "usr" / "bin" / program).is_file():
        raise ConfigError(
            f"the package holds no usr/bin/{program}",
            where=archive.name,
            advice="set the address of a server of your own",
        )
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def _download(apt: str, private: Path, directory: Path, package: str, step: Step) -> Path:
    """Download with the system's package lists; where they are empty or stale, with private, fresh ones."""
    command = [apt, "--quiet", "download", package]
    doing = f"downloading the package {package}"
    try:
        run([*command, *_options(private, own_lists=False)], doing=doing, cwd=directory)
    except FatalError:
        step("reading the lists of packages")
        run([apt, "--quiet", "update", *_options(private, own_lists=True)], doing="reading the package lists")
        step("downloading its Debian package")
        run([*command, *_options(private, own_lists=True)], doing=doing, cwd=directory)
    archives = sorted(directory.glob("*.deb"))
    if not archives:
        raise FatalError(f"apt-get downloaded nothing for {package}", where=str(directory))
    return archives[-1]


def _options(private: Path, *, own_lists: bool) -> list[str]:
    """Options that keep apt's writing below ``private``, whoever we are."""
    values: dict[str, object] = {
        "Dir::Cache": private / "cache",
        # As root apt would download as the user _apt, who may not enter our directories.
        "APT::Sandbox::User": "root" if os.getuid() == 0 else "",
        "Acquire::Languages": "none",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        "Debug::NoLocking": "true",
    }
    (private / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    if own_lists:
        values["Dir::State::lists"] = private / "lists"
        (private / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    return [item for name, value in values.items() for item in ("-o", f"{name}={value}")]
