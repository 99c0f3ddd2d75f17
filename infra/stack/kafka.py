"""Kafka: one KRaft node, broker and controller in one process, on loopback."""

from __future__ import annotations

import logging
import signal
import tempfile
from pathlib import Path
from typing import ClassVar

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from infra.runtime.kafka import admin_config
from infra.runtime.settings import KafkaSettings
from infra.stack import aot
from infra.stack.broker import broker_properties, java_command, new_cluster_id
from infra.stack.commands import run
from infra.stack.files import locked
from infra.stack.jars import fetch_kafka, java_home, kafka_jars
from infra.stack.layout import StackPaths
from infra.stack.ports import LOOPBACK
from infra.stack.report import Report
from infra.stack.server import Launch, NotReady, Ports, Site
from infra.stack.services import ServiceName
from infra.stack.settings import StackSettings
from infra.stack.state import StackState

CONTROLLER = "kafka/controller"

_FETCH_TIMEOUT_SECONDS = 900.0


class KafkaServer:
    """The embedded broker."""

    name: ClassVar[ServiceName] = ServiceName.KAFKA
    listeners: ClassVar[tuple[str, ...]] = (ServiceName.KAFKA, CONTROLLER)
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, site: Site) -> None:
        self._site = site
        self._home = site.paths.home(self.name)
        self._cache = site.paths.cache

    def fetch(self, report: Report) -> None:
        """Fetch the jars, and train the cache that more than halves the time of every later start."""
        with locked(self._cache / "kafka.lock", timeout_seconds=_FETCH_TIMEOUT_SECONDS, holder="fetching Kafka"):
            target = aot.archive(fetch_kafka(self._cache, report), java_home())
            if not target.exists():
                report(self.name, "learning to start faster (once)")
                self._rehearse(target, report)
                report(self.name, "fetched")

    def prepare(self, ports: Ports, report: Report) -> Launch:
        """Write the configuration and format the log directory; the cluster id is kept in the state."""
        self._home.mkdir(parents=True, exist_ok=True)
        properties = self._home / "server.properties"
        data = self._home / "data"
        lines = broker_properties(data, port=ports[self.name], controller_port=ports[CONTROLLER])
        properties.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        if self._site.state.kafka_cluster_id is None:
            self._site.state.kafka_cluster_id = new_cluster_id()
        if not (data / "meta.properties").exists():
            report(self.name, "formatting its log directory")
            self._format(properties, self._site.state.kafka_cluster_id)
        # Without a locale that knows UTF-8 Java cannot open files whose path is not ASCII.
        environment = {"LC_ALL": "C.UTF-8"}
        return Launch(command=self._java("kafka.Kafka", str(properties)), cwd=self._home, environment=environment)

    def probe(self, ports: Ports, timeout_seconds: float) -> None:
        """Ask for metadata; the answer must come from the cluster that was formatted here."""
        settings = KafkaSettings(bootstrap=f"{LOOPBACK}:{ports[self.name]}")
        config = admin_config(settings, reconnect_backoff_ms=20, reconnect_backoff_max_ms=50)
        # It would log every refused connection, and refused connections are what is waited out here.
        admin = AdminClient({**config, "logger": logging.Logger("silent", level=logging.CRITICAL + 1)})
        try:
            metadata = admin.list_topics(timeout=timeout_seconds)
        except KafkaException as error:
            raise NotReady(error.args[0].str()) from error
        if metadata.cluster_id != self._site.state.kafka_cluster_id:
            raise NotReady(f"another cluster ({metadata.cluster_id}) answers on its port")

    def settle(self, ports: Ports) -> None:
        """Nothing: topics are declared by `deltavisor topics apply`."""

    def discard(self) -> None:
        """Nothing: all of it lies in the stack's directory."""

    def _rehearse(self, target: Path, report: Report) -> None:
        aot.remove_leftovers(self._cache)
        with tempfile.TemporaryDirectory(dir=self._cache, prefix=aot.REHEARSAL) as directory:
            scratch = Path(directory)
            paths = StackPaths(name="rehearsal", base=scratch, cache=self._cache)
            broker = KafkaServer(Site(paths=paths, settings=StackSettings(), state=StackState()))
            if not aot.rehearse(broker, scratch, target):
                report(self.name, "Java could not remember a start; every start takes a few seconds more")

    def _format(self, properties: Path, cluster_id: str) -> None:
        command = self._java("kafka.tools.StorageTool", "format", "--ignore-formatted")
        run(
            [*command, "--cluster-id", cluster_id, "--config", str(properties)],
            doing="formatting Kafka's log directory",
        )

    def _java(self, *program: str) -> list[str]:
        settings = self._site.settings
        jars, home = kafka_jars(self._cache), java_home()
        options = [f"-Xmx{settings.kafka_heap_mib}m", *aot.options(jars, home)]
        if not settings.durable:
            # The first compiler alone: a third less CPU to start, a lower peak that no test reaches.
            options.append("-XX:TieredStopAtLevel=1")
        return java_command(jars, home, options, *program)
