"""Ticks: the only clock. They count when they are signed, follow one another and are not too close (design §4)."""

from enum import StrEnum

from schemas.codec import NewerMajorError, RecordError, decode, guard
from schemas.host_rows import PartitionRow
from schemas.rules import RULES_VERSION
from schemas.tick import Tick, verify_tick
from streams.hosts.policy import HostsPolicy
from streams.runtime.stage import Input

TICK_LIMIT_BYTES = 512


class Refusal(StrEnum):
    """Why a tick does not count."""

    MALFORMED = "malformed"
    FORGED = "forged"
    OUT_OF_ORDER = "out_of_order"
    EARLY = "early"


class Ticks:
    """Number and time of the newest tick of one partition, and since when silence is counted."""

    __slots__ = ("at", "n", "newer_until", "owner", "restart_tick")

    def __init__(self, row: PartitionRow | None) -> None:
        self.n = 0 if row is None else row.tick
        self.at = 0 if row is None else row.tick_at
        self.owner = b"" if row is None else row.tick_owner
        self.restart_tick = 0 if row is None else row.restart_tick
        self.newer_until = 0 if row is None else row.newer_until
        """Ticks below this offset count although they follow newer rules."""

    def refusal(self, tick: Tick, record: Input, policy: HostsPolicy, secret: bytes, topic_id: str) -> Refusal | None:
        """Why this tick must not count; None when it may. Raises NewerMajorError for newer rules.

        The rules are looked at last: only a tick that would count can stop the process.
        """
        if not verify_tick(secret, topic_id, record.partition, tick):
            return Refusal.FORGED
        if tick.n != self.n + 1:
            return Refusal.OUT_OF_ORDER
        if self.n and record.appended_at < self.at + policy.tick_spacing_ns:
            return Refusal.EARLY
        if tick.rules_version > RULES_VERSION and record.offset >= self.newer_until:
            raise NewerMajorError(
                f"host.reports[{record.partition}]@{record.offset}: a worker with rules version {tick.rules_version} "
                f"makes the ticks, this one knows {RULES_VERSION}; upgrade it, or roll the newer one back"
            )
        return None

    def advance(self, tick: Tick, appended_at: int, policy: HostsPolicy) -> None:
        """Take a tick that counts.

        Silence starts anew when ticks were missing or another worker makes them. Both stand in the log, so a replay
        decides the same: what was said before a crash is said again, not something else.
        """
        if tick.owner != self.owner or appended_at - self.at > policy.tick_gap_ns:
            self.restart_tick = tick.n
        self.n, self.at, self.owner = tick.n, appended_at, tick.owner


def read_tick(record: Input) -> Tick | None:
    """The tick in this record; None when it is none.

    None also for another major: nobody can tell who signed it, and whoever may write here must not stop the stage.
    Workers of that major wrote the partition row too, which does stop this one.
    """
    try:
        guard(record.value, TICK_LIMIT_BYTES)
        tick = decode(Tick, record.value, record.schema)
    except RecordError:
        return None
    return tick if 1 <= tick.n < 1 << 62 and len(tick.owner) == 16 else None
