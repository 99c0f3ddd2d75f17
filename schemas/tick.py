"""Tick: the only clock of the stages, one per second on every partition of `host.reports`.

Written by the hosts worker that owns the partition and signed, since agents may write to the same topic: an unsigned
or forged tick is rejected and counted.
"""

import hmac
from hashlib import sha256
from typing import ClassVar

from schemas.codec import Record, SchemaVersion

TICK_KEY = b"#tick"
"""Kafka key of a tick."""


class Tick(Record, frozen=True, kw_only=True):
    """Tick number `n` of one partition; it counts only when `n` follows the last one that counted."""

    SCHEMA: ClassVar[SchemaVersion] = SchemaVersion(record="Tick", major=1, minor=0)

    n: int
    owner: bytes
    """16 random bytes of the worker that wrote it."""
    rules_version: int
    mac: bytes


def sign_tick(secret: bytes, topic_id: str, partition: int, n: int) -> bytes:
    """HMAC-SHA256 over (topic id, partition, n): a tick is valid in one place and for one number only."""
    message = f"{topic_id}:{partition}:{n}".encode("ascii")
    return hmac.digest(secret, message, sha256)


def verify_tick(secret: bytes, topic_id: str, partition: int, tick: Tick) -> bool:
    """True when the tick was signed for this place with this secret; takes the same time either way."""
    return hmac.compare_digest(sign_tick(secret, topic_id, partition, tick.n), tick.mac)
