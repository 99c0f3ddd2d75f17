"""Secrets are private and made once; a lock has one holder and dies with the file."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from infra.runtime.errors import ConfigError, TransientError
from infra.stack.files import locked, secret, write_atomically
from infra.stack.processes import ProcessIdentity
from infra.stack.state import StackState, read_state, write_state


def test_a_secret_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "pg_sink"
    first = secret(path)
    assert len(first) >= 32
    assert secret(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_secrets_differ(tmp_path: Path) -> None:
    assert secret(tmp_path / "a") != secret(tmp_path / "b")


def test_a_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "text, not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with (
        locked(path, timeout_seconds=1, holder="somebody is busy"),
        pytest.raises(TransientError, match="somebody is busy"),
        locked(path, timeout_seconds=0.01, holder="somebody is busy"),
    ):
        pass
    with locked(path, timeout_seconds=0.01, holder="somebody is busy"):
        pass


def test_who_waited_for_a_deleted_lock_takes_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    entered = threading.Event()

    def wait_for_it() -> None:
        with locked(path, timeout_seconds=5, holder="the first one is busy"):
            assert path.exists()
            entered.set()

    waiter = threading.Thread(target=wait_for_it)
    with locked(path, timeout_seconds=1, holder="nobody"):
        waiter.start()
        assert not entered.wait(0.15)
        path.unlink()
    waiter.join(timeout=5)
    assert entered.is_set()


def test_state_is_read_as_written(tmp_path: Path) -> None:
    state = StackState(
        ports={"kafka": 1, "kafka/controller": 2},
        processes={"kafka": ProcessIdentity(pid=3, start_ticks=4, boot="b")},
        places={"postgres": Path("/elsewhere")},
        kafka_cluster_id="x",
    )
    write_state(tmp_path / "stack.json", state)
    assert read_state(tmp_path / "stack.json") == state
    assert read_state(tmp_path / "none.json") == StackState()


def test_a_damaged_state_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text("{")
    with pytest.raises(ConfigError, match="stack reset"):
        read_state(tmp_path / "stack.json")
