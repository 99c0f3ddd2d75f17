"""PostgreSQL: one cluster with the database ``deltavisor``, on loopback and, where its path fits, a socket."""

from __future__ import annotations

import shutil
import signal
from functools import partial
from pathlib import Path
from typing import ClassVar

import psycopg

from infra.stack.commands import run
from infra.stack.files import secret
from infra.stack.ports import LOOPBACK
from infra.stack.postgres_config import HBA, server_settings
from infra.stack.postgres_programs import find_programs, make_available
from infra.stack.privileges import account, hand_over, make_reachable, place
from infra.stack.processes import working_in
from infra.stack.report import Report
from infra.stack.server import Launch, NotReady, Ports, Site
from infra.stack.services import ServiceName

DATABASE = "deltavisor"
SUPERUSER = "postgres"

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
        """Nothing comes from afar; where root's packages are private, the programs are copied out of them."""
        if self._account is not None and self._site.settings.postgres_bin_dir is None:
            make_available(partial(report, self.name))

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
        forget_dead_postmaster(data, socket)
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
        command = [self._program("postgres"), "-D", str(data), "-c", f"config_file={config}"]
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
        command = [self._program("initdb"), "--pgdata", str(fresh), "--username", SUPERUSER]
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

    def _program(self, name: str) -> str:
        chosen = self._site.settings.postgres_bin_dir
        return str(find_programs(chosen, for_another_user=self._account is not None) / name)


def forget_dead_postmaster(data: Path, socket: Path) -> None:
    """Delete the lock files of a server that is no more; leave them while any process works in the directory.

    PostgreSQL does so itself, but takes a zombie nobody has collected, or a stranger under the same pid, for
    the server alive. Every process of a server has its data directory as working directory.
    """
    if working_in(data):
        return
    for lock in (data / "postmaster.pid", *socket.glob(".s.PGSQL.*")):
        lock.unlink(missing_ok=True)
