"""How the parts of a worker are made. The defaults are the product; a test or an armed failpoint puts others in."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from streams.runtime.consumer import InputTransport
from streams.runtime.intake import Intake
from streams.runtime.loading import Reader
from streams.runtime.outbox import Outbox
from streams.runtime.sender import Sender


def _as_made(part: object) -> object:
    return part


class Wiring(msgspec.Struct, frozen=True, kw_only=True):
    """What `streams.runtime.worker.Line` is put together from. Nothing a user could set."""

    outbox: Callable[..., Outbox] = Outbox
    intake: Callable[..., Intake] = Intake
    transport: type[InputTransport] = InputTransport
    sender: Callable[[Sender], Sender] = _as_made  # type: ignore[assignment]
    """Given the one that sends to Kafka, what the outbox uses."""
    reader: Callable[[Reader], Reader] = _as_made  # type: ignore[assignment]
    """Given the one that reads the table's log, what is asked to load."""


PLAIN = Wiring()
