"""The topics command without a broker: where it looks for one, and what it refuses."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.cli.topics import app
from infra.stack.endpoints import Endpoints, write_endpoints


def _closed_address() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("infra.runtime.topics._PROBE_SECONDS", 0.2)
    monkeypatch.setenv("DELTAVISOR_STACK_DIR", str(tmp_path))


def _stack_is_up(base: Path, kafka: str) -> None:
    endpoints = Endpoints(
        kafka=kafka, postgres="", victoriametrics=None, prometheus=None, secrets_dir=base / "secrets", pids={}
    )
    (base / "default").mkdir()
    write_endpoints(base / "default" / "endpoints.json", endpoints)


def test_without_a_broker_set_it_asks_the_embedded_stack(tmp_path: Path) -> None:
    address = _closed_address()
    _stack_is_up(tmp_path, address)
    result = CliRunner().invoke(app, ["check"])
    assert result.exit_code == 69
    assert f"Kafka at {address}: no broker answered" in result.stderr


def test_a_broker_that_is_set_wins_over_the_embedded_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _stack_is_up(tmp_path, _closed_address())
    address = _closed_address()
    monkeypatch.setenv("DELTAVISOR_KAFKA__BOOTSTRAP", address)
    assert f"Kafka at {address}" in CliRunner().invoke(app, ["check"]).stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["check", "vm.change"], "no topic is called 'vm.change'; did you mean 'vm.changes'"),
        (["apply", "--partitions", "0"], "topics.partitions: Input should be greater than or equal to 1"),
        (["apply", "--bootstrap", "here"], "kafka.bootstrap: 'here' is not host:port (from flag --kafka-bootstrap)"),
        (["check", "--config", "absent.toml"], "absent.toml: cannot read the settings file"),
    ],
)
def test_bad_arguments_end_with_the_code_for_bad_settings(arguments: list[str], complaint: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 64
    assert complaint in result.stderr


def test_a_wrong_command_line_is_a_usage_error() -> None:
    assert CliRunner().invoke(app, ["check", "--partitions", "many"]).exit_code == 2
