"""VictoriaMetrics: the store of statistics, out of its Debian package."""

from __future__ import annotations

import signal
from functools import partial
from typing import ClassVar

from infra.stack.debian import fetch_program, unpacked
from infra.stack.http import get
from infra.stack.ports import LOOPBACK
from infra.stack.report import Report
from infra.stack.server import Launch, Ports, Site
from infra.stack.services import ServiceName

_PACKAGE = _PROGRAM = "victoria-metrics"
_MEMORY_BYTES = 512 * 1024 * 1024


class VictoriaMetricsServer:
    """The embedded store of statistics."""

    name: ClassVar[ServiceName] = ServiceName.VICTORIAMETRICS
    listeners: ClassVar[tuple[str, ...]] = (ServiceName.VICTORIAMETRICS,)
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, site: Site) -> None:
        self._site = site

    def fetch(self, report: Report) -> None:
        """Download and unpack the package."""
        fetch_program(self._site.paths.cache, _PACKAGE, _PROGRAM, partial(report, self.name))

    def prepare(self, ports: Ports, report: Report) -> Launch:
        """Return the command line; it needs no configuration file."""
        home = self._site.paths.home(self.name)
        home.mkdir(parents=True, exist_ok=True)
        return Launch(
            command=[
                str(unpacked(self._site.paths.cache, _PACKAGE, _PROGRAM)),
                f"-httpListenAddr={LOOPBACK}:{ports[self.name]}",
                f"-storageDataPath={home / 'data'}",
                f"-retentionPeriod={self._site.settings.statistics_retention_days}d",
                # A batch delivered twice leaves every sample once.
                "-dedup.minScrapeInterval=1ms",
                # By default it would plan with 60 % of the machine's memory.
                f"-memory.allowedBytes={_MEMORY_BYTES}",
                # The default hides the last 30 s from queries.
                "-search.latencyOffset=1s",
            ],
            cwd=home,
        )

    def probe(self, ports: Ports, timeout_seconds: float) -> None:
        """Ask for its health."""
        get(f"http://{LOOPBACK}:{ports[self.name]}/health", timeout_seconds)

    def settle(self, ports: Ports) -> None:
        """Nothing: it needs no schema."""

    def discard(self) -> None:
        """Nothing: all of it lies in the stack's directory."""
