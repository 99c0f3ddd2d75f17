"""TLS and SASL from end to end: what a user writes into a settings file, against a broker that insists on it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer
from confluent_kafka import TopicPartition
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth
from typer.testing import CliRunner

from infra.cli.topics import TopicCommandSettings, app
from infra.runtime.errors import ExitCode
from infra.runtime.kafka import faust_broker, make_consumer, make_producer, wait_for_kafka
from infra.runtime.settings import KafkaSettings
from infra.runtime.topics import DEAD_LETTERS, HOST_CHANGES, HOST_REPORTS
from schemas.codec import SCHEMA_HEADER, encode, header_of
from schemas.ids import HostId, key_of, partition_of
from schemas.report import HostReport
from tests.integration.runtime.secure_broker import SecureBroker, secrets_in
from tests.unit.streams.hosts.world import Agent

pytestmark = [pytest.mark.stack, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[3]
PARTITIONS = 2


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    """The broker, without any topic."""
    if shutil.which("openssl") is None:
        missing = "the openssl program makes the certificates, and is not installed (Debian: apt-get install openssl)"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    made = SecureBroker(tmp_path_factory.mktemp("secure"))
    try:
        made.start()
        yield made
    finally:
        made.close()


class Written:
    """A settings file as a user writes it; every line can be given another value, or None to leave it out."""

    def __init__(self, broker: SecureBroker, directory: Path, **changed: Any) -> None:
        kafka = {
            "bootstrap": broker.address("client"),
            "security_protocol": "SASL_SSL",
            "ssl_ca_location": str(broker.certificates.ca),
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_username": "line",
            "sasl_password_file": str(broker.passwords["line"]),
            **changed,
        }
        lines = [
            f"{name} = {msgspec.json.encode(value).decode()}" for name, value in kafka.items() if value is not None
        ]
        self.path = directory / f"settings-{uuid.uuid4().hex[:8]}.toml"
        self.path.write_text(
            "\n".join(
                [
                    "[kafka]",
                    *lines,
                    f"[topics]\npartitions = {PARTITIONS}",
                    '[log]\nlevel = "DEBUG"',
                    '[hosts]\ntick_key = "a key for tests alone"\nlifecycle.give_up_after_seconds = 1',
                    "session_timeout_seconds = 20\ndelivery_timeout_seconds = 9",
                ]
            )
        )

    @property
    def kafka(self) -> KafkaSettings:
        return TopicCommandSettings.load(self.path, {}).kafka


@pytest.fixture(scope="module")
def line(broker: SecureBroker, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The settings of the line, by SCRAM; its topics exist."""
    written = Written(broker, tmp_path_factory.mktemp("line"))
    applied = CliRunner().invoke(app, ["apply", "--config", str(written.path)])
    assert applied.exit_code == 0, applied.output
    checked = CliRunner().invoke(app, ["check", "--config", str(written.path)])
    assert checked.exit_code == 0, checked.output
    assert secrets_in(applied.output + checked.output, broker) == []
    return written


def read_one(kafka: KafkaSettings, topic: str, *, seconds: float = 60.0) -> tuple[bytes | None, bytes]:
    """Key and value of the first record of a topic."""
    consumer = make_consumer(kafka, group_id="reader")
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is not None and message.error() is None:
                key, value = message.key(), message.value()
                assert isinstance(value, bytes)
                assert key is None or isinstance(key, bytes)
                return key, value
        raise AssertionError(f"nothing came in {topic}")
    finally:
        consumer.close()


def write(kafka: KafkaSettings, topic: str, key: bytes, value: bytes, headers: list[Any], partition: int) -> None:
    """One record, delivered."""
    failed: list[Any] = []
    producer = make_producer(kafka)
    producer.produce(topic, value, key, partition, headers=headers, on_delivery=lambda error, _: failed.append(error))
    assert producer.flush(30) == 0
    assert failed == [None]


def test_topics_producer_and_consumer_by_either_mechanism(broker: SecureBroker, line: Written) -> None:
    """Written by SCRAM, read by PLAIN."""
    write(line.kafka, DEAD_LETTERS, b"key", b"value", [], 0)
    assert read_one(broker.operator(), DEAD_LETTERS) == (b"key", b"value")


def a_report() -> tuple[int, HostReport]:
    """The first report of a host without VMs, and the partition it belongs to."""
    now = time.time_ns()
    host = HostId(uuid.uuid4().bytes)
    first = Agent(host).snapshot()[0]
    times = dict.fromkeys(("observed_at", "observed_monotonic_ns", "sent_at", "sent_monotonic_ns"), now)
    return partition_of(key_of(host), PARTITIONS), msgspec.structs.replace(first, **times)


def start_worker(written: Written) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "infra.cli.main", "stream", "hosts", "--config", str(written.path)]
    return subprocess.Popen(
        [*command, "--http-port", "off"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def committed(kafka: KafkaSettings) -> dict[int, int]:
    """What Faust committed of host.reports; below zero for a partition without a commit."""
    consumer = make_consumer(kafka, group_id="deltavisor-hosts")
    try:
        asked = [TopicPartition(HOST_REPORTS, partition) for partition in range(PARTITIONS)]
        return {answer.partition: answer.offset for answer in consumer.committed(asked, timeout=20)}
    finally:
        consumer.close()


def test_a_worker_of_the_hosts_stage(broker: SecureBroker, line: Written) -> None:
    """Faust joins, reads, commits; the outbox writes; nothing of it prints a password, at the lowest log level."""
    partition, report = a_report()
    key = key_of(report.host_id)
    write(line.kafka, HOST_REPORTS, key, encode(report), [(SCHEMA_HEADER, header_of(HostReport))], partition)
    worker = start_worker(line)
    try:
        assert read_one(line.kafka, HOST_CHANGES)[0] == key
    finally:
        worker.send_signal(signal.SIGTERM)
        output, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0, output
    assert committed(line.kafka)[partition] > 0
    assert "tables_loaded" in output
    assert secrets_in(output, broker) == []


def refusals(broker: SecureBroker) -> dict[str, tuple[dict[str, Any], ExitCode, str, str]]:
    """By name: what is written wrongly, the exit code, and what the message says of cause and remedy."""
    certificates = broker.certificates
    plain = dict.fromkeys(("ssl_ca_location", "sasl_mechanism", "sasl_username", "sasl_password_file"))
    wrong_password = {"sasl_password_file": str(broker.passwords["wrong"])}
    return {
        "wrong_password": (wrong_password, ExitCode.CONFIG, "refused our credentials", "kafka.sasl_password"),
        "wrong_password_plain": (
            {**wrong_password, "sasl_mechanism": "PLAIN", "sasl_username": "operator"},
            ExitCode.CONFIG,
            "refused our credentials",
            "kafka.sasl_password",
        ),
        "unknown_mechanism": (
            {"sasl_mechanism": "SCRAM-SHA-256"},
            ExitCode.CONFIG,
            "refused our credentials",
            "kafka.sasl_mechanism",
        ),
        "wrong_ca": (
            {"ssl_ca_location": str(certificates.stranger)},
            ExitCode.UNREACHABLE,
            "certificate verify failed",
            "kafka.ssl_ca_location",
        ),
        "wrong_host_name": (
            {"bootstrap": broker.address("elsewhere")},
            ExitCode.UNREACHABLE,
            "certificate verify failed",
            "kafka.bootstrap",
        ),
        "plaintext": (
            {**plain, "security_protocol": "PLAINTEXT"},
            ExitCode.UNREACHABLE,
            "no broker answered",
            "kafka.security_protocol (a listener for TLS",
        ),
        "no_certificate_of_ours": (
            {**plain, "bootstrap": broker.address("mutual"), "security_protocol": "SSL"}
            | {"ssl_ca_location": str(certificates.ca)},
            ExitCode.UNREACHABLE,
            "certificate",
            "kafka.ssl_certificate_location",
        ),
        "no_such_ca": (
            {"ssl_ca_location": "/nowhere/ca.pem"},
            ExitCode.CONFIG,
            "cannot use the TLS files",
            "kafka.ssl_",
        ),
        "wrong_key_password": (
            {**mutual(broker), "ssl_key_password_file": str(broker.passwords["wrong"])},
            ExitCode.CONFIG,
            "cannot use the TLS files",
            "kafka.ssl_",
        ),
    }


def mutual(broker: SecureBroker) -> dict[str, Any]:
    """Settings for the listener that wants a certificate of the client."""
    return {
        "bootstrap": broker.address("mutual"),
        "security_protocol": "SSL",
        "ssl_ca_location": str(broker.certificates.ca),
        "ssl_certificate_location": str(broker.certificates.certificate("client")),
        "ssl_key_location": str(broker.certificates.key("client")),
        "ssl_key_password_file": str(broker.passwords["key"]),
        **dict.fromkeys(("sasl_mechanism", "sasl_username", "sasl_password_file")),
    }


@pytest.mark.parametrize(
    "name",
    [
        "wrong_password",
        "wrong_password_plain",
        "unknown_mechanism",
        "wrong_ca",
        "wrong_host_name",
        "plaintext",
        "no_certificate_of_ours",
        "no_such_ca",
        "wrong_key_password",
    ],
)
def test_who_is_refused_learns_why(
    name: str, broker: SecureBroker, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    changed, code, cause, remedy = refusals(broker)[name]
    written = Written(broker, tmp_path, **changed)
    result = CliRunner().invoke(app, ["check", "--config", str(written.path)])
    captured = capfd.readouterr()
    output = result.output + captured.out + captured.err
    assert result.exit_code == code, output
    assert cause in output
    assert remedy in output
    assert output.count("\n") == 1, "one sentence"
    assert secrets_in(output, broker) == []


def test_a_worker_that_is_refused_ends_with_the_code(broker: SecureBroker, tmp_path: Path) -> None:
    cases = [refusals(broker)[name] for name in ("wrong_password", "wrong_ca")]
    workers = [start_worker(Written(broker, tmp_path, **changed)) for changed, *_ in cases]
    for worker, (_, code, cause, remedy) in zip(workers, cases, strict=True):
        output, _ = worker.communicate(timeout=120)
        assert worker.returncode == code, output
        assert cause in output
        assert remedy in output
        assert secrets_in(output, broker) == []


def test_certificates_on_both_sides(broker: SecureBroker, tmp_path: Path) -> None:
    """The client shows one too, its key under a password: librdkafka, and Faust's client with Faust's credentials."""
    kafka = Written(broker, tmp_path, **mutual(broker)).kafka
    wait_for_kafka(kafka, timeout_seconds=20)
    assert "client-" not in repr(kafka)

    async def topics() -> set[str]:
        auth = credentials_to_aiokafka_auth(faust_broker(kafka).credentials)
        consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, **auth)
        await consumer.start()
        try:
            return set(await consumer.topics())
        finally:
            await consumer.stop()

    assert isinstance(asyncio.run(topics()), set)


def test_a_name_that_is_not_checked_is_let_in(broker: SecureBroker, tmp_path: Path) -> None:
    """`ssl_verify_hostname = false` is what makes the difference in wrong_host_name."""
    kafka = Written(broker, tmp_path, bootstrap=broker.address("elsewhere"), ssl_verify_hostname=False).kafka
    wait_for_kafka(kafka, timeout_seconds=20)
