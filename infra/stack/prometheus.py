"""Prometheus: scrapes our parts' own metrics and takes remote write, out of its Debian package."""

from __future__ import annotations

import signal
from functools import partial
from string import Template
from typing import ClassVar

from infra.stack.debian import fetch_program, unpacked
from infra.stack.http import get
from infra.stack.layout import REPOSITORY
from infra.stack.ports import LOOPBACK
from infra.stack.report import Report
from infra.stack.server import Launch, Ports, Site
from infra.stack.services import ServiceName

TEMPLATE = REPOSITORY / "infra" / "prometheus" / "prometheus.yml"

_PACKAGE = _PROGRAM = "prometheus"


class PrometheusServer:
    """The embedded Prometheus."""

    name: ClassVar[ServiceName] = ServiceName.PROMETHEUS
    listeners: ClassVar[tuple[str, ...]] = (ServiceName.PROMETHEUS,)
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, site: Site) -> None:
        self._site = site
        self._home = site.paths.home(self.name)

    def fetch(self, report: Report) -> None:
        """Download and unpack the package."""
        fetch_program(self._site.paths.cache, _PACKAGE, _PROGRAM, partial(report, self.name))

    def prepare(self, ports: Ports, report: Report) -> Launch:
        """Fill in the configuration and return the command line."""
        targets = self._home / "targets"
        targets.mkdir(parents=True, exist_ok=True)
        address = f"{LOOPBACK}:{ports[self.name]}"
        config = self._home / "prometheus.yml"
        config.write_text(Template(TEMPLATE.read_text()).substitute(prometheus=address, targets=targets))
        return Launch(
            command=[
                str(unpacked(self._site.paths.cache, _PACKAGE, _PROGRAM)),
                f"--config.file={config}",
                f"--storage.tsdb.path={self._home / 'data'}",
                f"--storage.tsdb.retention.time={self._site.settings.statistics_retention_days}d",
                f"--web.listen-address={address}",
                "--web.enable-remote-write-receiver",
            ],
            cwd=self._home,
        )

    def probe(self, ports: Ports, timeout_seconds: float) -> None:
        """Ask whether it is ready."""
        get(f"http://{LOOPBACK}:{ports[self.name]}/-/ready", timeout_seconds)

    def settle(self, ports: Ports) -> None:
        """Nothing: it needs no schema."""

    def discard(self) -> None:
        """Nothing: all of it lies in the stack's directory."""
