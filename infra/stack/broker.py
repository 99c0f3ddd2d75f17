"""How the embedded broker is started: its command line and its settings, as pure functions."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Sequence
from pathlib import Path

from infra.runtime.kafka import MAX_MESSAGE_BYTES
from infra.stack.layout import REPOSITORY
from infra.stack.ports import LOOPBACK

_LOGGING = REPOSITORY / "infra" / "kafka" / "log4j2.properties"
# A record of the largest size travels in a batch, which has a header of its own.
_BATCH_MARGIN_BYTES = 65_536


def new_cluster_id() -> str:
    """Return a random cluster id: 16 bytes in URL-safe base64 without padding, not beginning with a dash."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def java_command(jars: Path, home: Path, options: Sequence[str], *program: str) -> list[str]:
    """Return the command line of a program out of the jars.

    The class path names every jar, in a fixed order: the start-up cache is valid for exactly one. The serial
    collector takes the least CPU on the few cores this stack is for, with a heap this small.
    """
    class_path = ":".join(str(jar) for jar in sorted(jars.glob("*.jar")))
    return [
        str(home / "bin" / "java"),
        "-XX:+UseSerialGC",
        "-XX:+ExitOnOutOfMemoryError",
        *options,
        "-Djava.awt.headless=true",
        # Compression libraries of Kafka load native code; later Java versions will ask for these words.
        "--enable-native-access=ALL-UNNAMED",
        "--sun-misc-unsafe-memory-access=allow",
        f"-Dlog4j2.configurationFile={_LOGGING}",
        "-cp",
        class_path,
        *program,
    ]


def broker_properties(data: Path, *, port: int, controller_port: int) -> dict[str, str]:
    """Return the broker's settings: one node, nothing created by accident, limits of a laptop."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        "listeners": f"CLIENT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": f"CLIENT://{LOOPBACK}:{port}",
        "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "CLIENT",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(data),
        "auto.create.topics.enable": "false",
        "default.replication.factor": "1",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        # A group whose members were away for a holiday still finds its offsets.
        "offsets.retention.minutes": str(90 * 24 * 60),
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "4",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "message.max.bytes": str(MAX_MESSAGE_BYTES + _BATCH_MARGIN_BYTES),
        "log.retention.hours": "168",
        "log.segment.bytes": str(256 * 1024 * 1024),
        "log.cleaner.enable": "true",
        # The default of 128 MiB would be a quarter of the heap; this still holds 1.3 million keys a pass.
        "log.cleaner.dedupe.buffer.size": str(32 * 1024 * 1024),
        # A killed broker may register again only when its old session has ended: by default after 9 s.
        "broker.session.timeout.ms": "4000",
        "broker.heartbeat.interval.ms": "1000",
        "num.network.threads": "2",
        "num.io.threads": "4",
        "controlled.shutdown.max.retries": "1",
    }
