"""A broker of its own that lets nobody in without TLS, with certificates that the `openssl` program makes for it.

Listeners, all on 127.0.0.1: `client` (SASL_SSL), `elsewhere` (the same with a certificate for another host's name) and
`mutual` (TLS with certificates on both sides).
"""

from __future__ import annotations

import secrets
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from infra.runtime.kafka import make_admin
from infra.runtime.settings import KafkaSettings, Secret, SecurityProtocol
from infra.stack.kafka import CONTROLLER, KafkaServer
from infra.stack.layout import StackPaths
from infra.stack.ports import LOOPBACK, choose
from infra.stack.processes import ProcessIdentity, is_alive, spawn, stop
from infra.stack.report import silent
from infra.stack.server import Site
from infra.stack.services import ServiceName
from infra.stack.settings import StackSettings
from infra.stack.state import StackState

START_SECONDS = 90.0
LISTENERS = ("client", "elsewhere", "mutual")


@dataclass(frozen=True)
class Certificates:
    """A certificate authority and what it signed, as PEM files in one directory."""

    directory: Path

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def stranger(self) -> Path:
        """Another authority, which signed nothing here."""
        return self.directory / "stranger.pem"

    def make(self, client_password_file: Path) -> None:
        """Two authorities, two certificates for the broker and one for a client, its key under a password."""
        (self.directory / "openssl.cnf").write_text("[req]\ndistinguished_name = name\n[name]\n")
        for name in ("ca", "stranger"):
            self._sign(name, "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign")
        self._sign("broker", "subjectAltName=IP:127.0.0.1", ca="ca")
        self._sign("elsewhere", "subjectAltName=DNS:broker.elsewhere.test", ca="ca")
        self._sign("client", "extendedKeyUsage=clientAuth", ca="ca", password_file=client_password_file)

    def key(self, name: str) -> Path:
        return self.directory / f"{name}.key"

    def certificate(self, name: str) -> Path:
        return self.directory / f"{name}.pem"

    def keystore(self, name: str) -> Path:
        """Key and certificate in one file, as the broker wants them."""
        path = self.directory / f"{name}.store.pem"
        path.write_text(self.key(name).read_text() + self.certificate(name).read_text())
        return path

    def _sign(self, name: str, *extensions: str, ca: str | None = None, password_file: Path | None = None) -> None:
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        command += ["-config", str(self.directory / "openssl.cnf"), "-days", "2", "-subj", f"/CN={name}"]
        command += ["-keyout", str(self.key(name)), "-out", str(self.certificate(name))]
        command += ["-nodes"] if password_file is None else ["-passout", f"file:{password_file}"]
        for extension in extensions:
            command += ["-addext", extension]
        if ca is not None:
            command += ["-CA", str(self.certificate(ca)), "-CAkey", str(self.key(ca))]
        subprocess.run(command, check=True, capture_output=True, timeout=60)


@dataclass
class SecureBroker:
    """The broker, its files, and the passwords that must stay in them."""

    directory: Path
    ports: dict[str, int] = field(default_factory=dict)
    passwords: dict[str, Path] = field(default_factory=dict)
    """File by user: `operator` logs in by PLAIN, `line` by SCRAM, `key` opens the client's key."""
    _identity: ProcessIdentity | None = None

    def __post_init__(self) -> None:
        for user in ("operator", "line", "key", "wrong"):
            path = self.passwords[user] = self.directory / f"{user}.password"
            path.touch(mode=0o600)
            path.write_text(f"{user}-{secrets.token_hex(16)}\n")
        self.certificates = Certificates(self.directory)

    def password(self, user: str) -> str:
        return self.passwords[user].read_text().strip()

    def address(self, listener: str) -> str:
        return f"{LOOPBACK}:{self.ports[listener]}"

    def operator(self) -> KafkaSettings:
        """A connection by PLAIN."""
        return KafkaSettings(
            bootstrap=self.address("client"),
            security_protocol=SecurityProtocol.SASL_SSL,
            ssl_ca_location=self.certificates.ca,
            sasl_mechanism="PLAIN",
            sasl_username="operator",
            sasl_password=Secret(self.password("operator")),
        )

    def start(self) -> None:
        """Make certificates, start, wait for an answer, and make the SCRAM user."""
        self.certificates.make(self.passwords["key"])
        taken: set[int] = set()
        for listener in (*LISTENERS, CONTROLLER):
            self.ports[listener] = choose(None, taken)
            taken.add(self.ports[listener])
        paths = StackPaths(name="secure", base=self.directory, cache=StackPaths.of("secure").cache)
        server = KafkaServer(Site(paths=paths, settings=StackSettings(durable=False), state=StackState()))
        server.fetch(silent)
        ports = {ServiceName.KAFKA: self.ports["client"], CONTROLLER: self.ports[CONTROLLER]}
        launch = server.prepare(ports, silent)
        # Of two lines with one key Java takes the later.
        with (launch.cwd / "server.properties").open("a") as properties:
            properties.write("".join(f"{key}={value}\n" for key, value in self._security().items()))
        self._identity = spawn(launch.command, cwd=launch.cwd, log=self._log, environment=launch.environment)
        self._make_scram_user(self._identity)

    def close(self) -> None:
        """End it."""
        if self._identity is not None:
            stop(self._identity, first=signal.SIGTERM, patience_seconds=30)

    @property
    def _log(self) -> Path:
        return self.directory / "broker.log"

    def _security(self) -> dict[str, str]:
        addresses = {listener.upper(): self.address(listener) for listener in LISTENERS}
        listed = [f"{name}://{address}" for name, address in addresses.items()]
        module = "org.apache.kafka.common.security"
        users = f'user_operator="{self.password("operator")}"'
        sasl = {"sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512"}
        for listener in ("client", "elsewhere"):
            prefix = f"listener.name.{listener}"
            sasl[f"{prefix}.plain.sasl.jaas.config"] = f"{module}.plain.PlainLoginModule required {users};"
            sasl[f"{prefix}.scram-sha-512.sasl.jaas.config"] = f"{module}.scram.ScramLoginModule required;"
        protocols = "CLIENT:SASL_SSL,ELSEWHERE:SASL_SSL,MUTUAL:SSL,CONTROLLER:PLAINTEXT"
        return {
            "listeners": ",".join([*listed, f"CONTROLLER://{self.address(CONTROLLER)}"]),
            "advertised.listeners": ",".join(listed),
            "listener.security.protocol.map": protocols,
            "inter.broker.listener.name": "MUTUAL",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.certificates.keystore("broker")),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.certificates.ca),
            "listener.name.elsewhere.ssl.keystore.type": "PEM",
            "listener.name.elsewhere.ssl.keystore.location": str(self.certificates.keystore("elsewhere")),
            "listener.name.mutual.ssl.client.auth": "required",
            **sasl,
        }

    def _make_scram_user(self, identity: ProcessIdentity) -> None:
        user = UserScramCredentialUpsertion(
            "line",
            ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096),
            self.password("line").encode(),
        )
        admin = make_admin(self.operator(), reconnect_backoff_ms=20, reconnect_backoff_max_ms=100)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                admin.alter_user_scram_credentials([user], request_timeout=5)["line"].result()
                return
            except KafkaException as error:
                if not is_alive(identity) or time.monotonic() > deadline:
                    raise RuntimeError(f"the broker does not answer\n{self._log.read_text()[-4000:]}") from error


def secrets_in(text: str, broker: SecureBroker) -> Sequence[str]:
    """Users whose password stands in this text."""
    return [user for user in broker.passwords if broker.password(user) in text]
