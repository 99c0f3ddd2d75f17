"""Client settings: what must hold for all, TLS and SASL in both worlds, and errors of a missing broker."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from infra.runtime.errors import ConfigError, NeighbourUnreachable
from infra.runtime.kafka import (
    MAX_MESSAGE_BYTES,
    admin_config,
    consumer_config,
    faust_broker,
    make_admin,
    make_consumer,
    make_producer,
    producer_config,
    unreachable,
    wait_for_kafka,
)
from infra.runtime.settings import KafkaSettings, Secret, SecurityProtocol

SASL: dict[str, Any] = {
    "sasl_mechanism": "SCRAM-SHA-512",
    "sasl_username": "line",
    "sasl_password": Secret("hunter2"),
}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_every_producer_is_idempotent_and_hashes_like_faust() -> None:
    config = producer_config(KafkaSettings(), linger_ms=20, on_delivery=print, delivery_report_only_error=True)
    assert config["partitioner"] == "murmur2_random"
    assert config["enable.idempotence"] is True
    assert config["acks"] == "all"
    assert config["compression.type"] == "lz4"
    assert config["linger.ms"] == 20
    assert config["on_delivery"] is print
    assert config["delivery.report.only.error"] is True
    assert config["message.max.bytes"] < MAX_MESSAGE_BYTES


def test_no_consumer_commits_or_jumps_by_itself() -> None:
    config = consumer_config(KafkaSettings(), group_id="sink")
    assert config["group.id"] == "sink"
    assert config["enable.auto.commit"] is False
    assert config["enable.auto.offset.store"] is False
    assert config["auto.offset.reset"] == "error"


@pytest.mark.parametrize("name", ["partitioner", "acks", "enable_idempotence"])
def test_what_all_depend_on_cannot_be_tuned(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be tuned"):
        producer_config(KafkaSettings(), **{name: "other"})


def test_a_consumer_cannot_be_tuned_to_commit_by_itself() -> None:
    with pytest.raises(ValueError, match=r"enable\.auto\.commit cannot be tuned"):
        consumer_config(KafkaSettings(), group_id="sink", enable_auto_commit=True)


def test_librdkafka_knows_every_setting() -> None:
    settings = KafkaSettings(bootstrap=f"127.0.0.1:{_free_port()}")
    make_producer(settings, delivery_timeout_ms=1000)
    make_consumer(settings, group_id="g", enable_partition_eof=True).close()


def test_tls_and_sasl_reach_librdkafka() -> None:
    settings = KafkaSettings(
        security_protocol=SecurityProtocol.SASL_SSL,
        ssl_ca_location=Path("ca.pem"),
        ssl_verify_hostname=False,
        **SASL,
    )
    config = admin_config(settings)
    assert config["security.protocol"] == "SASL_SSL"
    assert config["ssl.ca.location"] == "ca.pem"
    assert config["ssl.endpoint.identification.algorithm"] == "none"
    assert (config["sasl.mechanism"], config["sasl.username"]) == ("SCRAM-SHA-512", "line")
    assert config["sasl.password"] == "hunter2"


def test_a_plain_connection_says_nothing_of_tls() -> None:
    assert not [name for name in producer_config(KafkaSettings()) if name.startswith(("ssl.", "sasl."))]


def test_faust_gets_every_address_and_no_credentials_when_plain() -> None:
    broker = faust_broker(KafkaSettings(bootstrap="a:1, b:2"))
    assert broker.url == "kafka://a:1;kafka://b:2"
    assert broker.credentials is None


def test_faust_gets_tls_and_sasl() -> None:
    credentials = faust_broker(KafkaSettings(security_protocol=SecurityProtocol.SASL_SSL, **SASL)).credentials
    assert credentials.protocol.value == "SASL_SSL"
    assert credentials.mechanism.value == "SCRAM-SHA-512"
    assert (credentials.username, credentials.password) == ("line", "hunter2")
    assert credentials.ssl_context.verify_mode is ssl.CERT_REQUIRED
    assert "hunter2" not in repr(credentials)


def test_faust_gets_sasl_without_tls_and_tls_without_sasl() -> None:
    plain = faust_broker(KafkaSettings(security_protocol=SecurityProtocol.SASL_PLAINTEXT, **SASL)).credentials
    assert plain.protocol.value == "SASL_PLAINTEXT"
    assert plain.ssl_context is None
    tls = faust_broker(KafkaSettings(security_protocol=SecurityProtocol.SSL, ssl_verify_hostname=False)).credentials
    assert tls.protocol.value == "SSL"
    assert tls.context.check_hostname is False


def test_unusable_certificates_are_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    settings = KafkaSettings(security_protocol=SecurityProtocol.SSL, ssl_ca_location=tmp_path / "ca.pem")
    with pytest.raises(ConfigError, match="cannot use the TLS files"):
        faust_broker(settings)


def test_importing_the_module_does_not_load_faust() -> None:
    program = "import sys, infra.runtime.kafka; sys.exit('faust' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_missing_broker_is_unreachable_with_address_cause_and_advice() -> None:
    address = f"127.0.0.1:{_free_port()}"
    with pytest.raises(NeighbourUnreachable) as unreachable:
        wait_for_kafka(KafkaSettings(bootstrap=address), timeout_seconds=0.3)
    message = str(unreachable.value)
    assert message.startswith(f"Kafka at {address}: no broker answered")
    assert "Connection refused" in message
    assert "deltavisor stack up" in message


@pytest.mark.parametrize("make", [make_producer, make_admin])
def test_files_that_librdkafka_can_not_use_are_a_configuration_error(make: Callable[[KafkaSettings], Any]) -> None:
    settings = KafkaSettings(security_protocol=SecurityProtocol.SSL, ssl_ca_location=Path("/nowhere/ca.pem"))
    with pytest.raises(ConfigError, match=r"kafka\.ssl_\*: cannot use the TLS files"):
        make(settings)


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        (KafkaError._AUTHENTICATION, ConfigError, "check kafka.sasl_mechanism"),
        (KafkaError._SSL, NeighbourUnreachable, "check that kafka.ssl_ca_location signed"),
        (KafkaError._TRANSPORT, NeighbourUnreachable, "deltavisor stack up"),
    ],
)
def test_who_refuses_is_told_from_who_is_not_there(code: int, error: type[Exception], said: str) -> None:
    consequence = KafkaException(KafkaError(KafkaError._TRANSPORT, "no metadata"))
    found = unreachable(KafkaSettings(), consequence, [KafkaError(code, "the cause")])
    assert isinstance(found, error)
    assert said in str(found)
