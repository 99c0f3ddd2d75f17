"""Files that must never be seen half written, records kept as JSON, secrets, and the lock of a directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets as randomness
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from infra.runtime.errors import TransientError

_LOCK_POLL_SECONDS = 0.1

Record = TypeVar("Record")


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` by ``content`` in one step. A crash leaves the old file, and at most a stray ``.new``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(path)


def write_json(path: Path, record: object) -> None:
    """Write a record as indented JSON, in one step; paths become text."""
    write_atomically(path, msgspec.json.format(msgspec.json.encode(record, enc_hook=str)) + b"\n")


def read_json(path: Path, kind: type[Record]) -> Record:
    """Return the record in the file. Raises FileNotFoundError, and msgspec.DecodeError when it is another's."""
    return msgspec.json.decode(path.read_bytes(), type=kind, dec_hook=lambda wanted, text: wanted(text))


def secret(path: Path, make: Callable[[], str] = lambda: randomness.token_urlsafe(24)) -> str:
    """Return the secret kept in ``path``, made and written (0600) at the first call."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        write_atomically(path, make().encode() + b"\n", mode=0o600)
    return path.read_text().rstrip("\n")


@contextlib.contextmanager
def locked(path: Path, *, timeout_seconds: float, holder: str) -> Iterator[None]:
    """Hold the lock file ``path`` exclusively, among threads and processes.

    ``holder`` says what the other one is doing, for the message of the TransientError after the timeout. The
    kernel frees the lock when its process ends, however it ends. The file may be deleted while it is held:
    whoever waited for a deleted file starts over with the new one.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_current(descriptor, path):
                break
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise TransientError(
                    f"{holder} for more than {timeout_seconds:.0f} s", where=str(path), advice="wait, then try again"
                ) from error
            time.sleep(_LOCK_POLL_SECONDS)
        os.close(descriptor)
    try:
        yield
    finally:
        os.close(descriptor)


def _is_current(descriptor: int, path: Path) -> bool:
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False
