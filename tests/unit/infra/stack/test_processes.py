"""A process is recognised by pid, start and boot; a stranger under a known pid is never touched."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from infra.stack.processes import (
    MARKER,
    ProcessIdentity,
    identify,
    is_alive,
    marked,
    spawn,
    stop,
    usage,
    working_in,
)

SLEEPER = [sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(60)"]
DEAF = [
    sys.executable,
    "-S",
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]

Start = Callable[..., ProcessIdentity]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[ProcessIdentity] = []

    def start_and_wait(command: list[str], marker: str = "none") -> ProcessIdentity:
        log = tmp_path / f"{len(started)}.log"
        started.append(spawn(command, cwd=tmp_path, log=log, environment={MARKER: marker}))
        deadline = time.monotonic() + 10
        while b"up" not in log.read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return started[-1]

    yield start_and_wait
    for identity in started:
        stop(identity, first=signal.SIGKILL, patience_seconds=5)


def fake_proc(root: Path, *, pid: int, state: str, start_ticks: int, boot: str) -> Path:
    """A /proc with one process, whose name holds what makes parsing hard."""
    fields = [state, "1", *["0"] * 17, str(start_ticks), "0", "7", *["0"] * 28]
    (root / str(pid)).mkdir(parents=True)
    (root / str(pid) / "stat").write_text(f"{pid} (a) (b c) {' '.join(fields)}\n")
    (root / "sys/kernel/random").mkdir(parents=True)
    (root / "sys/kernel/random/boot_id").write_text(f"{boot}\n")
    return root


def test_identity_is_read_past_a_hostile_name(tmp_path: Path) -> None:
    proc = fake_proc(tmp_path, pid=77, state="S", start_ticks=1234, boot="b1")
    assert identify(77, proc) == ProcessIdentity(pid=77, start_ticks=1234, boot="b1")


@pytest.mark.parametrize(
    ("state", "start_ticks", "boot", "alive"),
    [
        ("S", 1234, "b1", True),
        ("R", 1234, "b1", True),
        ("Z", 1234, "b1", False),
        ("X", 1234, "b1", False),
        ("S", 1235, "b1", False),
        ("S", 1234, "b2", False),
    ],
)
def test_only_the_very_same_process_is_alive(
    tmp_path: Path, state: str, start_ticks: int, boot: str, alive: bool
) -> None:
    remembered = ProcessIdentity(pid=77, start_ticks=1234, boot="b1")
    proc = fake_proc(tmp_path, pid=77, state=state, start_ticks=start_ticks, boot=boot)
    assert is_alive(remembered, proc) is alive


def test_a_pid_that_nobody_has_is_not_alive(tmp_path: Path) -> None:
    proc = fake_proc(tmp_path, pid=77, state="S", start_ticks=1, boot="b1")
    assert not is_alive(ProcessIdentity(pid=78, start_ticks=1, boot="b1"), proc)


def test_a_stranger_under_a_remembered_pid_is_left_alone(start: Start) -> None:
    stranger = start(SLEEPER)
    remembered = msgspec.structs.replace(stranger, start_ticks=stranger.start_ticks - 1)
    assert stop(remembered, first=signal.SIGKILL, patience_seconds=1)
    assert is_alive(stranger)


def test_stop_asks_first(start: Start) -> None:
    identity = start(SLEEPER)
    assert stop(identity, first=signal.SIGTERM, patience_seconds=5)
    assert not is_alive(identity)
    assert stop(identity, first=signal.SIGTERM, patience_seconds=5), "stopping again is harmless"


def test_stop_kills_what_does_not_listen(start: Start) -> None:
    identity = start(DEAF)
    assert not stop(identity, first=signal.SIGTERM, patience_seconds=0.2)
    assert not is_alive(identity)


def test_a_server_has_a_session_of_its_own_and_none_of_our_environment(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_OF_THE_CALLER", "x")
    identity = start(SLEEPER)
    assert os.getsid(identity.pid) == identity.pid
    assert b"TOKEN_OF_THE_CALLER" not in Path(f"/proc/{identity.pid}/environ").read_bytes()


def test_a_marked_process_is_found_without_being_remembered(start: Start, tmp_path: Path) -> None:
    identity = start(SLEEPER, marker=f"{tmp_path}:kafka")
    assert marked(f"{tmp_path}:kafka") == [identity]
    assert marked(f"{tmp_path}:kafk") == []


def test_working_directories_are_found(start: Start, tmp_path: Path) -> None:
    identity = start(SLEEPER)
    assert identity.pid in working_in(tmp_path)
    assert working_in(tmp_path / "elsewhere") == []


def test_usage_counts_descendants_and_ends_with_the_process(start: Start) -> None:
    child = "import time; print('up', flush=True); b = bytearray(50_000_000); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {child!r}])"
    identity = start([sys.executable, "-S", "-c", parent])
    deadline = time.monotonic() + 10
    while (taken := usage(identity)) is not None and taken.rss_bytes < 50_000_000:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert taken is not None
    for descendant in psutil.Process(identity.pid).children():
        descendant.kill()
    stop(identity, first=signal.SIGKILL, patience_seconds=5)
    assert usage(identity) is None


def test_a_program_that_ends_at_once_is_not_alive(tmp_path: Path) -> None:
    identity = spawn(["/bin/false"], cwd=tmp_path, log=tmp_path / "log", environment={})
    deadline = time.monotonic() + 10
    while is_alive(identity):
        assert time.monotonic() < deadline
        time.sleep(0.01)
