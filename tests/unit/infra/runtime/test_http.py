"""The health server: three paths, two methods, loopback unless a token is set."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection

import pytest

from infra.runtime.errors import ConfigError
from infra.runtime.http import CONCURRENT_REQUESTS, WELL, Health, HealthCheck, HealthServer
from infra.runtime.metrics import Metrics
from infra.runtime.settings import HttpSettings, Secret


@contextmanager
def _serving(
    settings: HttpSettings | None = None, *, live: HealthCheck = lambda: WELL, ready: HealthCheck = lambda: WELL
) -> Iterator[int]:
    server = HealthServer(settings or HttpSettings(), Metrics("vms"), live=live, ready=ready)
    port = server.start()
    assert port is not None
    try:
        yield port
    finally:
        server.close()
        server.close()


def _request(
    port: int, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[int, bytes, str | None]:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.read(), response.getheader("Content-Length")
    finally:
        connection.close()


def test_metrics_and_health_are_served() -> None:
    with _serving() as port:
        status, body, _ = _request(port, "/metrics")
        assert status == 200
        assert b"deltavisor_vms_outbox_in_flight_records" in body
        for path in ("/livez", "/readyz", "/readyz?verbose"):
            assert _request(port, path)[:2] == (200, b'{"ok": true, "reasons": []}\n')


def test_what_is_not_well_answers_503_with_the_reasons() -> None:
    with _serving(ready=lambda: Health(ok=False, reasons=("loading tables: 40 %",))) as port:
        status, body, _ = _request(port, "/readyz")
        assert status == 503
        assert json.loads(body) == {"ok": False, "reasons": ["loading tables: 40 %"]}
        assert _request(port, "/livez")[0] == 200


def test_a_check_that_fails_answers_503_without_its_message() -> None:
    def broken() -> Health:
        raise RuntimeError("password is hunter2")

    with _serving(live=broken) as port:
        status, body, _ = _request(port, "/livez")
    assert status == 503
    assert b"RuntimeError" in body
    assert b"hunter2" not in body


@pytest.mark.parametrize("path", ["/", "/metrics/", "/../etc/passwd", "/readyz/x"])
def test_other_paths_are_not_found(path: str) -> None:
    with _serving() as port:
        assert _request(port, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(method: str) -> None:
    with _serving() as port:
        assert _request(port, "/livez", method)[0] == 501


def test_head_has_the_length_and_no_body() -> None:
    with _serving() as port:
        assert _request(port, "/livez", "HEAD") == (200, b"", "28")


def test_off_serves_nothing() -> None:
    assert HealthServer(HttpSettings(port=None), Metrics("vms")).start() is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.test"])  # noqa: S104
def test_beyond_loopback_needs_a_token(host: str) -> None:
    with pytest.raises(ConfigError, match="listening beyond loopback needs a token"):
        HealthServer(HttpSettings(host=host), Metrics("vms")).start()


def test_a_token_must_be_sent_when_set() -> None:
    with _serving(HttpSettings(host="0.0.0.0", token=Secret("hunter2"))) as port:  # noqa: S104
        assert _request(port, "/metrics")[0] == 401
        assert _request(port, "/metrics", headers={"Authorization": "Bearer wrong"})[0] == 401
        assert _request(port, "/metrics", headers={"Authorization": "Bearer hunter2"})[0] == 200


def test_a_taken_port_is_a_configuration_error() -> None:
    with _serving() as port, pytest.raises(ConfigError, match="cannot listen"):
        HealthServer(HttpSettings(port=port), Metrics("vms")).start()


def test_more_clients_than_slots_are_turned_away_and_the_slots_come_back() -> None:
    with _serving() as port:
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONCURRENT_REQUESTS)]
        late = socket.create_connection(("127.0.0.1", port), timeout=5)
        assert late.recv(1) == b""
        for connection in (*idle, late):
            connection.close()
        for _ in range(50):
            try:
                assert _request(port, "/livez")[0] == 200
                break
            except ConnectionError:
                continue
        else:
            pytest.fail("no slot came back")
