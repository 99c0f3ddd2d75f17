"""Ports on loopback: chosen at a server's first start, kept while nobody else takes them."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection

from infra.runtime.errors import FatalError

LOOPBACK = "127.0.0.1"

# Below the range the kernel hands out for outgoing connections, so that a stopped stack's port is not
# taken by somebody's client before the next start.
_FIRST, _LAST = 15_000, 31_999
_ATTEMPTS = 400


def is_free(port: int) -> bool:
    """True when a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def choose(remembered: int | None, taken: Collection[int]) -> int:
    """Return the remembered port if it is still free, else a free one that is not in ``taken``.

    ``taken`` are ports promised to others that may not be listening yet. The remembered port is judged by
    the kernel alone. Raises FatalError when hundreds of tries find nothing.
    """
    if remembered is not None and is_free(remembered):
        return remembered
    for _ in range(_ATTEMPTS):
        port = random.randint(_FIRST, _LAST)
        if port not in taken and is_free(port):
            return port
    raise FatalError(f"no free port between {_FIRST} and {_LAST} on {LOOPBACK}", advice="stop some servers")
