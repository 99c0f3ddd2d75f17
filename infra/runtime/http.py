"""``/metrics``, ``/livez`` and ``/readyz`` from a thread of the process they speak about.

Answers GET and HEAD on these three paths, to loopback only unless a token is set. Readiness says whether this process
has loaded its state and follows its input; liveness whether restarting it would help.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from infra.runtime.errors import ConfigError
from infra.runtime.log import get_logger
from infra.runtime.metrics import Metrics
from infra.runtime.secret import Secret
from infra.runtime.settings import HttpSettings

REQUEST_SECONDS = 5.0
"""A client that sends or reads more slowly is dropped."""
CONCURRENT_REQUESTS = 8
"""Enough for a few scrapers; more connections are closed unanswered, so that they cannot eat threads."""

_METRICS_TYPE = "text/plain; version=1.0.0; charset=utf-8"
_log = get_logger(__name__)


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """An answer to "are you well?"; ``reasons`` say why not, in words without secrets or payloads."""

    ok: bool
    reasons: tuple[str, ...] = ()


WELL = Health(ok=True)

HealthCheck = Callable[[], Health]
"""Called in a thread of the server at every request: must be quick, and safe from any thread."""


class HealthServer:
    """Serves until closed. ``start`` returns the port, or None when the settings say off."""

    def __init__(
        self,
        settings: HttpSettings,
        metrics: Metrics,
        *,
        live: HealthCheck = lambda: WELL,
        ready: HealthCheck = lambda: WELL,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._checks = {"/livez": live, "/readyz": ready}
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def start(self) -> int | None:
        """Listen and serve. ConfigError if the address is not loopback and no token is set, or cannot be bound."""
        settings = self._settings
        if settings.port is None:
            return None
        if settings.token is None and not _is_loopback(settings.host):
            raise ConfigError(
                "listening beyond loopback needs a token",
                where=f"http.host = {settings.host}",
                advice="set http.token_file, or use 127.0.0.1",
            )
        where = f"{settings.host}:{settings.port}"
        try:
            self._server = _Server((settings.host, settings.port), self._answer, settings.token)
        except OSError as error:
            raise ConfigError(
                f"cannot listen ({error.strerror})", where=f"http at {where}", advice="use another http.port, or 0"
            ) from error
        self._thread = threading.Thread(target=self._serve, args=(self._server,), name="http", daemon=True)
        self._thread.start()
        port: int = self._server.server_address[1]
        _log.info("http_listening", host=settings.host, port=port)
        return port

    def close(self) -> None:
        """Stop listening; safe to repeat."""
        if self._server is None or self._thread is None:
            return
        self._closed.set()
        with suppress(OSError):  # a connection wakes the thread, which otherwise waits without ever polling
            socket.create_connection((self._server.server_name, self._server.server_port), timeout=1.0).close()
        self._thread.join(timeout=1.0)
        self._server.server_close()
        self._server = None

    def _serve(self, server: _Server) -> None:
        while not self._closed.is_set():
            server.handle_request()

    def _answer(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        """Status, content type and body for a path."""
        if path == "/metrics":
            return HTTPStatus.OK, _METRICS_TYPE, self._metrics.render()
        check = self._checks.get(path)
        if check is None:
            return _json(HTTPStatus.NOT_FOUND, Health(ok=False, reasons=("no such path",)))
        try:
            health = check()
        except Exception as error:
            _log.exception("health_check_failed", path=path)
            health = Health(ok=False, reasons=(f"the check itself failed: {type(error).__name__}",))
        return _json(HTTPStatus.OK if health.ok else HTTPStatus.SERVICE_UNAVAILABLE, health)


Answer = Callable[[str], tuple[HTTPStatus, str, bytes]]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, address: tuple[str, int], answer: Answer, token: Secret | None) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.answer = answer
        self.token = token
        self._slots = threading.BoundedSemaphore(CONCURRENT_REQUESTS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's failure."""

    def server_bind(self) -> None:
        # Not HTTPServer's own: it asks DNS for the name of the address, which can block for seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = REQUEST_SECONDS
    server_version = "deltavisor"
    sys_version = ""

    def do_GET(self) -> None:
        self._respond(with_body=True)

    def do_HEAD(self) -> None:
        self._respond(with_body=False)

    def _respond(self, *, with_body: bool) -> None:
        if self._allowed():
            status, content_type, body = self.server.answer(self.path.partition("?")[0])
        else:
            status, content_type, body = _json(HTTPStatus.UNAUTHORIZED, Health(ok=False, reasons=("token needed",)))
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _allowed(self) -> bool:
        if self.server.token is None:
            return True
        expected = f"Bearer {self.server.token.reveal()}".encode()
        return hmac.compare_digest(self.headers.get("Authorization", "").encode(), expected)

    def log_message(self, format: str, *args: Any) -> None:
        """Steady state is silent."""


def _json(status: HTTPStatus, health: Health) -> tuple[HTTPStatus, str, bytes]:
    body = json.dumps({"ok": health.ok, "reasons": list(health.reasons)}).encode() + b"\n"
    return status, "application/json", body


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
