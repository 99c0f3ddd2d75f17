"""Kafka client settings as pure functions, and thin factories over them: one place decides how we talk to a broker.

Every producer of ours hashes keys with ``murmur2_random``, as Faust and the Java clients do: librdkafka's own default
would put the same key into another partition, and co-partitioned topics would not meet.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import confluent_kafka
import msgspec
from confluent_kafka.admin import AdminClient

from infra.runtime.errors import ConfigError, NeighbourUnreachable
from infra.runtime.settings import KafkaSettings

KafkaConfig = dict[str, Any]
Client = TypeVar("Client")

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""The largest batch any of our topics takes; librdkafka's default of 1 MB would refuse it."""
MAX_RECORD_BYTES = MAX_MESSAGE_BYTES - 65_536
"""The largest record a producer accepts, so that its batch, header included, stays within the topic's limit.

A larger one fails in ``produce``, before anything of it was sent."""

_logger = logging.getLogger("confluent_kafka")
# Without a handler, a program that sets up no logging would print every failed connection attempt.
_logger.addHandler(logging.NullHandler())

_FIXED_PRODUCER: KafkaConfig = {
    "partitioner": "murmur2_random",
    "enable.idempotence": True,
    "acks": "all",
}
_FIXED_CONSUMER: KafkaConfig = {
    # What was read is committed only after it was applied and its effects are durable.
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "allow.auto.create.topics": False,
}
_AUTHENTICATION_CODES = frozenset(
    {
        confluent_kafka.KafkaError._AUTHENTICATION,
        confluent_kafka.KafkaError.SASL_AUTHENTICATION_FAILED,
    }
)
_REFUSAL_SECONDS = 1.0
"""After so long it is looked whether we were refused: asking on would only repeat a login that fails, until some
brokers lock the account."""


def client_config(settings: KafkaSettings) -> KafkaConfig:
    """What every librdkafka client of ours has in common: address, identity, TLS and SASL."""
    config: KafkaConfig = {
        "bootstrap.servers": settings.bootstrap,
        "client.id": settings.client_id,
        "security.protocol": settings.security_protocol.value,
        "socket.keepalive.enable": True,
        # The default cap of 10 s would be the longest part of a short broker restart.
        "reconnect.backoff.max.ms": 1_000,
    }
    if settings.security_protocol.uses_tls:
        config["ssl.endpoint.identification.algorithm"] = "https" if settings.ssl_verify_hostname else "none"
        for name, path in (
            ("ssl.ca.location", settings.ssl_ca_location),
            ("ssl.certificate.location", settings.ssl_certificate_location),
            ("ssl.key.location", settings.ssl_key_location),
        ):
            if path is not None:
                config[name] = str(path)
        if settings.ssl_key_password is not None:
            config["ssl.key.password"] = settings.ssl_key_password.reveal()
    if settings.sasl_password is not None:
        config["sasl.mechanism"] = settings.sasl_mechanism
        config["sasl.username"] = settings.sasl_username
        config["sasl.password"] = settings.sasl_password.reveal()
    return config


def producer_config(settings: KafkaSettings, **tuning: Any) -> KafkaConfig:
    """Settings of an idempotent producer. ``tuning`` names use ``_`` for ``.`` (``linger_ms=5``).

    ValueError if ``tuning`` would change what must hold for all: partitioner, idempotence, acks.
    """
    defaults: KafkaConfig = {
        "compression.type": "lz4",
        "linger.ms": 5,
        "message.max.bytes": MAX_RECORD_BYTES,
    }
    return _merged(client_config(settings) | defaults, _FIXED_PRODUCER, tuning)


def consumer_config(settings: KafkaSettings, *, group_id: str, **tuning: Any) -> KafkaConfig:
    """Settings of a consumer that commits by hand. Every one needs a group id, also those that only assign.

    ``auto.offset.reset`` is ``error``: an offset that is gone is a gap, to be seen, never to be jumped over.
    """
    defaults: KafkaConfig = {
        "group.id": group_id,
        "auto.offset.reset": "error",
        "fetch.message.max.bytes": MAX_MESSAGE_BYTES,
    }
    return _merged(client_config(settings) | defaults, _FIXED_CONSUMER, tuning)


def admin_config(settings: KafkaSettings, **tuning: Any) -> KafkaConfig:
    """Settings of an admin client."""
    return _merged(client_config(settings), {}, tuning)


def make_producer(settings: KafkaSettings, **tuning: Any) -> confluent_kafka.Producer:
    """A producer; connects in the background, so a missing broker is not noticed here."""
    return _made(confluent_kafka.Producer, producer_config(settings, **tuning), settings)


def make_consumer(settings: KafkaSettings, *, group_id: str, **tuning: Any) -> confluent_kafka.Consumer:
    """A consumer; connects in the background, so a missing broker is not noticed here."""
    return _made(confluent_kafka.Consumer, consumer_config(settings, group_id=group_id, **tuning), settings)


def make_admin(settings: KafkaSettings, **tuning: Any) -> AdminClient:
    """An admin client; connects in the background, so a missing broker is not noticed here."""
    return _made(AdminClient, admin_config(settings, **tuning), settings)


def _made(make: Callable[[KafkaConfig], Client], config: KafkaConfig, settings: KafkaSettings) -> Client:
    """The client. ConfigError when it can not use the files of its TLS settings."""
    try:
        return make({**config, "logger": _logger})
    except confluent_kafka.KafkaException as error:
        if not settings.security_protocol.uses_tls:
            raise
        raise _unusable_files(error.args[0].str()) from error


def wait_for_kafka(settings: KafkaSettings, *, timeout_seconds: float = 5.0) -> None:
    """Return once a broker has answered a metadata request; safe to repeat.

    Raises NeighbourUnreachable when none did in time, and ConfigError when one refused our credentials.
    """
    reasons: list[confluent_kafka.KafkaError] = []
    admin = make_admin(settings, error_cb=reasons.append)
    wait_for_answer(admin, settings, reasons, timeout_seconds=timeout_seconds)


def wait_for_answer(
    admin: AdminClient,
    settings: KafkaSettings,
    reasons: Sequence[confluent_kafka.KafkaError],
    *,
    timeout_seconds: float,
) -> None:
    """As wait_for_kafka, with a client that exists; `reasons` is what its ``error_cb`` fills."""
    deadline = time.monotonic() + timeout_seconds
    patience = min(_REFUSAL_SECONDS, timeout_seconds)
    while True:
        try:
            admin.list_topics(timeout=patience)
        except confluent_kafka.KafkaException as error:
            admin.poll(0)  # hands what went wrong meanwhile to error_cb
            patience = deadline - time.monotonic()
            if patience <= 0 or _refusal(settings, reasons) is not None:
                raise unreachable(settings, error, reasons) from error
        else:
            return


def unreachable(
    settings: KafkaSettings,
    error: confluent_kafka.KafkaException,
    reasons: Sequence[confluent_kafka.KafkaError] = (),
) -> ConfigError | NeighbourUnreachable:
    """The error to raise for a request no broker answered; ``reasons`` are what ``error_cb`` was told meanwhile."""
    request = error.args[0]
    if (refused := _refusal(settings, [request, *reasons])) is not None:
        return refused
    # What error_cb heard is the cause ("connection refused"); what the request raised is its consequence.
    consequence = confluent_kafka.KafkaError._ALL_BROKERS_DOWN
    causes = [reason.str() for reason in reasons if reason.code() != consequence]
    # Neither shows in a code of its own: a plain client only sees its connection closed, one without a certificate too.
    hint = (
        "kafka.ssl_certificate_location, if the broker wants a certificate of ours"
        if settings.security_protocol.uses_tls
        else "a listener for TLS closes plain connections without a word"
    )
    return NeighbourUnreachable(
        f"no broker answered ({causes[0] if causes else request.str()})",
        where=f"Kafka at {settings.bootstrap}",
        advice=f"start Kafka (`deltavisor stack up`), or mend kafka.bootstrap and kafka.security_protocol ({hint})",
    )


def _refusal(
    settings: KafkaSettings, told: Sequence[confluent_kafka.KafkaError]
) -> ConfigError | NeighbourUnreachable | None:
    """What to raise when a broker is there and does not let us in, or is none that we trust; None when it is neither.

    Without TLS in common it is transient: a certificate may have expired on the broker's side, and be renewed there.
    """
    where = f"Kafka at {settings.bootstrap}"
    if any(reason.code() in _AUTHENTICATION_CODES for reason in told):
        return ConfigError(
            "the broker refused our credentials",
            where=where,
            advice="check kafka.sasl_mechanism, kafka.sasl_username and kafka.sasl_password",
        )
    of_tls = [reason.str() for reason in told if reason.code() == confluent_kafka.KafkaError._SSL]
    if of_tls:
        return NeighbourUnreachable(
            f"no TLS with the broker ({of_tls[0]})",
            where=where,
            advice="check that kafka.ssl_ca_location signed the broker's certificate, that it names the host in "
            "kafka.bootstrap, and whether the broker wants one of ours (kafka.ssl_certificate_location)",
        )
    return None


class FaustBroker(msgspec.Struct, frozen=True, kw_only=True):
    """``broker`` and ``broker_credentials`` of a Faust app; the credentials are None without TLS and SASL."""

    url: str
    credentials: Any


def faust_broker(settings: KafkaSettings) -> FaustBroker:
    """The same connection as :func:`client_config` makes, in Faust's words. ConfigError if a certificate is bad."""
    url = ";".join(f"kafka://{address.strip()}" for address in settings.bootstrap.split(","))
    context = _ssl_context(settings) if settings.security_protocol.uses_tls else None
    if settings.sasl_password is not None:
        # Imported here so that programs without streams do not load Faust.
        from faust.auth import SASLCredentials

        credentials = SASLCredentials(
            username=settings.sasl_username,
            password=settings.sasl_password.reveal(),
            mechanism=settings.sasl_mechanism,
            ssl_context=context,
        )
        return FaustBroker(url=url, credentials=credentials)
    if context is not None:
        from faust.auth import SSLCredentials

        return FaustBroker(url=url, credentials=SSLCredentials(context))
    return FaustBroker(url=url, credentials=None)


def _merged(config: KafkaConfig, fixed: KafkaConfig, tuning: dict[str, Any]) -> KafkaConfig:
    named = {_librdkafka_name(name): value for name, value in tuning.items()}
    if clash := sorted(named.keys() & fixed.keys()):
        raise ValueError(f"{', '.join(clash)} cannot be tuned: every client of ours depends on it")
    return {**config, **fixed, **named}


def _librdkafka_name(name: str) -> str:
    """``linger_ms`` -> ``linger.ms``; callbacks keep their Python names."""
    return name if name.startswith("on_") or name.endswith("_cb") else name.replace("_", ".")


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(
            cafile=str(settings.ssl_ca_location) if settings.ssl_ca_location is not None else None
        )
        context.check_hostname = settings.ssl_verify_hostname
        if settings.ssl_certificate_location is not None:
            password = settings.ssl_key_password.reveal() if settings.ssl_key_password is not None else None
            context.load_cert_chain(settings.ssl_certificate_location, settings.ssl_key_location, password)
    except (OSError, ssl.SSLError) as error:
        raise _unusable_files(str(error)) from error
    return context


def _unusable_files(problem: str) -> ConfigError:
    return ConfigError(
        f"cannot use the TLS files ({problem})",
        where="kafka.ssl_*",
        advice="check the paths, the PEM files and kafka.ssl_key_password",
    )
