"""A stack: the servers one Deltavisor needs, started together, found again later, stopped without a trace."""

from __future__ import annotations

import os
import secrets as randomness
import shutil
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from infra.runtime.errors import ConfigError, DeltavisorError
from infra.stack import external
from infra.stack.endpoints import Endpoints, read_endpoints, write_endpoints
from infra.stack.files import locked, secret
from infra.stack.kafka import KafkaServer
from infra.stack.layout import StackPaths
from infra.stack.ports import LOOPBACK
from infra.stack.postgres import DATABASE, SUPERUSER, PostgresServer
from infra.stack.processes import is_alive, marked, stop
from infra.stack.prometheus import PrometheusServer
from infra.stack.report import Report, silent
from infra.stack.server import Server, Site
from infra.stack.services import MANDATORY, ServiceName
from infra.stack.settings import StackSettings
from infra.stack.starting import STOP_PATIENCE_SECONDS, Starter, marker_of, tail
from infra.stack.state import read_state, write_state
from infra.stack.status import ServiceStatus, status_of
from infra.stack.victoriametrics import VictoriaMetricsServer

_LOCK_TIMEOUT_SECONDS = 900.0
"""A first start by somebody else fetches everything; a second caller waits for it."""

_ROLE_PASSWORDS = ("postgres", "pg_sink", "pg_reader", "pg_migrator")
_TICK_KEY_BYTES = 32


class Stack:
    """One named stack. Making the object touches nothing; every method may be called again at any time.

    Methods that change the stack take its lock, so that several programs may call them at once. ``settings``
    None reads the environment; tests pass their own, and see nothing of the user's.
    """

    def __init__(self, name: str = "default", base: Path | None = None, settings: StackSettings | None = None) -> None:
        self._settings = settings or StackSettings.load(None, os.environ)
        self._paths = StackPaths.of(name, base, self._settings.cache_dir)

    @property
    def paths(self) -> StackPaths:
        """Where the stack keeps its things."""
        return self._paths

    def fetch(self, progress: Report | None = None, services: Collection[str] | None = None) -> None:
        """Bring jars and programs into the cache and start nothing. Errors as in `up`."""
        report, site = progress or silent, self._site()
        with ThreadPoolExecutor(max_workers=len(ServiceName)) as pool:
            wanted = self._embedded(_chosen(services))
            running = {name: pool.submit(_server(name, site).fetch, report) for name in wanted}
        _collect(running, _indispensable(services), report)

    def up(self, progress: Report | None = None, services: Collection[str] | None = None) -> Endpoints:
        """Start what does not run yet, all at once, and return where everything answers.

        ``services`` are names of `ServiceName`; None means all. Kafka and PostgreSQL always belong to them. One
        named here must start; VictoriaMetrics and Prometheus, when not named, are reported and left out where
        they cannot be had. Services not named keep running if they do.
        """
        report = progress or silent
        with self._changing():
            self._make_secrets()
            site = self._site()
            chosen = _chosen(services)
            starter = Starter(site)
            pool = ThreadPoolExecutor(max_workers=len(ServiceName))
            try:
                running = {
                    name: pool.submit(starter.bring_up, _server(name, site), report) for name in self._embedded(chosen)
                }
                for name in chosen - running.keys():
                    running[name] = pool.submit(external.check, name, self._settings)
                failed = _collect(running, _indispensable(services), report)
            finally:
                starter.cancel()
                pool.shutdown()
                write_state(self._paths.state, site.state)
            endpoints = self._describe(site, chosen - failed)
            write_endpoints(self._paths.endpoints, endpoints)
            return endpoints

    def down(self) -> None:
        """Stop every server the stack started, those of crashed runs too. Data, ports and secrets stay."""
        with self._changing():
            self._stop_all()

    def reset(self) -> None:
        """Stop, and delete everything of this stack: data, logs, secrets, ports. The cache stays."""
        with self._changing():
            self._stop_all()
            site = self._site()
            for name in ServiceName:
                _server(name, site).discard()
            for entry in self._paths.root.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                elif entry != self._paths.lock:
                    entry.unlink()
            shutil.rmtree(self._paths.root)

    def status(self) -> list[ServiceStatus]:
        """Return how every service is, asking those that run; takes a few seconds when one hangs."""
        site = self._site()
        with ThreadPoolExecutor(max_workers=len(ServiceName)) as pool:
            return list(pool.map(lambda name: status_of(_server(name, site), site), ServiceName))

    def logs(self, service: str, lines: int = 50) -> list[str]:
        """Return the last lines one server wrote; ConfigError for a name that is none."""
        return tail(self._paths.log(_service_name(service)), lines)

    def endpoints(self) -> Endpoints | None:
        """Return what `up` returned last, None before it and after `down`. Checks nothing."""
        return read_endpoints(self._paths.endpoints)

    def _site(self) -> Site:
        return Site(paths=self._paths, settings=self._settings, state=read_state(self._paths.state))

    @contextmanager
    def _changing(self) -> Iterator[None]:
        try:
            self._paths.root.mkdir(parents=True, exist_ok=True)
            with locked(
                self._paths.lock,
                timeout_seconds=_LOCK_TIMEOUT_SECONDS,
                holder="another program has been changing the stack",
            ):
                yield
        except PermissionError as error:
            raise ConfigError(
                "not ours to write",
                where=str(error.filename or self._paths.root),
                advice="the stack was made by another user: be that user, or set DELTAVISOR_STACK_DIR to another place",
            ) from error

    def _make_secrets(self) -> None:
        directory = self._paths.secrets
        for role in _ROLE_PASSWORDS:
            if role != "postgres" or self._settings.postgres_dsn is None:
                secret(directory / role)
        secret(directory / "tick_key", lambda: randomness.token_hex(_TICK_KEY_BYTES))
        if self._settings.postgres_dsn is not None:
            external.write_password(self._paths, self._settings.postgres_dsn.reveal())

    def _embedded(self, chosen: Collection[ServiceName]) -> list[ServiceName]:
        return [name for name in ServiceName if name in chosen and self._settings.address_of(name) is None]

    def _stop_all(self) -> None:
        self._paths.endpoints.unlink(missing_ok=True)
        site = self._site()

        def end(name: ServiceName) -> None:
            first = _server(name, site).stop_signal
            known = site.state.processes.get(name)
            for identity in {*([known] if known else []), *marked(marker_of(self._paths, name))}:
                stop(identity, first=first, patience_seconds=STOP_PATIENCE_SECONDS)

        with ThreadPoolExecutor(max_workers=len(ServiceName)) as pool:
            list(pool.map(end, ServiceName))
        site.state.processes.clear()
        write_state(self._paths.state, site.state)

    def _describe(self, site: Site, available: Collection[ServiceName]) -> Endpoints:
        alive = {name: who.pid for name, who in site.state.processes.items() if is_alive(who)}
        ports = site.state.ports

        def url(name: ServiceName) -> str | None:
            own = self._settings.address_of(name)
            if own is not None:
                return own.rstrip("/") if name in available else None
            return f"http://{LOOPBACK}:{ports[name]}" if name in alive else None

        dsn = self._settings.address_of(ServiceName.POSTGRES)
        return Endpoints(
            kafka=self._settings.kafka_bootstrap or f"{LOOPBACK}:{ports[ServiceName.KAFKA]}",
            postgres=external.split_password(dsn)[0]
            if dsn
            else f"host={LOOPBACK} port={ports[ServiceName.POSTGRES]} dbname={DATABASE} user={SUPERUSER}",
            victoriametrics=url(ServiceName.VICTORIAMETRICS),
            prometheus=url(ServiceName.PROMETHEUS),
            secrets_dir=self._paths.secrets,
            pids={
                str(name): pid for name, pid in alive.items() if self._settings.address_of(ServiceName(name)) is None
            },
        )


def _server(name: ServiceName, site: Site) -> Server:
    match name:
        case ServiceName.KAFKA:
            return KafkaServer(site)
        case ServiceName.POSTGRES:
            return PostgresServer(site)
        case ServiceName.VICTORIAMETRICS:
            return VictoriaMetricsServer(site)
        case ServiceName.PROMETHEUS:
            return PrometheusServer(site)


def _service_name(text: str) -> ServiceName:
    try:
        return ServiceName(text)
    except ValueError as error:
        raise ConfigError(f"no service is called {text!r}", advice=f"choose from {', '.join(ServiceName)}") from error


def _chosen(services: Collection[str] | None) -> frozenset[ServiceName]:
    if services is None:
        return frozenset(ServiceName)
    return frozenset(_service_name(name) for name in services) | MANDATORY


def _indispensable(services: Collection[str] | None) -> frozenset[ServiceName]:
    return MANDATORY if services is None else _chosen(services)


def _collect(
    running: dict[ServiceName, Future[None]], indispensable: frozenset[ServiceName], report: Report
) -> set[ServiceName]:
    """Wait for all; return those that failed and can be done without, raise the first error of the others."""
    failed: set[ServiceName] = set()
    errors: list[DeltavisorError] = []
    for name, future in running.items():
        try:
            future.result()
        except DeltavisorError as error:
            report(name, f"not available: {error}")
            failed.add(name)
            if name in indispensable:
                errors.append(error)
    if errors:
        raise errors[0]
    return failed
