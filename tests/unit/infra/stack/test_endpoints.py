"""The endpoints file: what is written is read, damage is said, nothing secret is in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.runtime.errors import ConfigError
from infra.stack.endpoints import Endpoints, endpoints_of, read_endpoints, write_endpoints

ENDPOINTS = Endpoints(
    kafka="127.0.0.1:20001",
    postgres="host=127.0.0.1 port=20002 dbname=deltavisor user=postgres",
    victoriametrics=None,
    prometheus="http://127.0.0.1:20003",
    secrets_dir=Path("/somewhere/secrets"),
    pids={"kafka": 11, "postgres": 12},
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "lab" / "endpoints.json"
    write_endpoints(path, ENDPOINTS)
    assert read_endpoints(path) == ENDPOINTS
    assert endpoints_of("lab", tmp_path) == ENDPOINTS


def test_no_file_means_not_up(tmp_path: Path) -> None:
    assert endpoints_of("lab", tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"[]", b'{"kafka": 5}', b"\xff"])
def test_a_damaged_file_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "endpoints.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"endpoints\.json: .*stack up"):
        read_endpoints(path)


def test_a_write_leaves_nothing_else_behind(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.json"
    write_endpoints(path, ENDPOINTS)
    write_endpoints(path, ENDPOINTS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["endpoints.json"]
