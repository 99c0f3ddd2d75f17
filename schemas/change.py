"""The frame that every public delta shares: identity, order, availability and evidence."""

from enum import StrEnum
from typing import Any

import msgspec

from schemas.members import at_hand
from schemas.status import Believed, Doubt, ExitReason, ExitStatus


@at_hand
class Cause(StrEnum):
    """Why a change was made."""

    CREATED = "created"
    """First evidence of this incarnation."""
    REPORTED = "reported"
    """The owner's evidence."""
    ADOPTED = "adopted"
    """Another host runs it and nobody owned it."""
    HANDED_OVER = "handed_over"
    """A migration moved it."""
    RESTARTED = "restarted"
    """A new process of the same owner without a seen stop."""
    GONE = "gone"
    """It left its host's list."""
    JUDGED = "judged"
    """A loss inferred from absence became certain enough."""
    CONFLICT = "conflict"
    CONFLICT_ENDED = "conflict_ended"
    HOST = "host"
    """The host became silent, degraded, back, confirmed."""
    TIMER = "timer"
    """Ticks ran out."""
    INTENT = "intent"
    REMOVED = "removed"
    GAP = "gap"
    """Evidence was lost before it was read (host.changes)."""
    REBUILT = "rebuilt"
    """The table was lost: a new incarnation begins with what was last known."""
    REPAIRED = "repaired"
    """Only in histories: changes before this state are gone from the topic, the reader took the state whole."""


class Availability(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """May the status be believed? `reasons` is the whole set, `reason` the one shown first (rule H2b)."""

    state: Believed
    reason: Doubt | None = None
    reasons: list[Doubt] = []
    since: int = 0
    """Log-append time (ns) of the evidence that made it so."""


class Exit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the last run ended; None on a VM that never ended or runs again."""

    status: ExitStatus
    reason: ExitReason
    message: str | None = None


class Evidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a change comes from: the position in host.reports (or intents) and who wrote it."""

    topic: str
    log: int
    partition: int
    offset: int
    """-1 when the evidence is a tick known by its number alone."""
    host: str | None
    boot: str | None
    seq: int | None
    tick: int | None = None
    """Number of the tick of this partition that moved the clock; only in what ran out, never in what was said."""


CLEARED = msgspec.Raw(b"\xc0")
"""`after` of a facet that the VM no longer has: MessagePack nil."""


class FacetChange(msgspec.Struct, frozen=True, kw_only=True):
    """One changed facet: `after` whole (`CLEARED` when gone), `before` only the changed fields (None: was absent).

    `after` is the canonical facet map itself, not bytes in bytes: any reader decodes it with the message.
    """

    before: dict[str, Any] | None
    after: msgspec.Raw
    changed: list[str]

    @property
    def cleared(self) -> bool:
        """True when the VM no longer has this facet."""
        return bytes(self.after) == bytes(CLEARED)


def change_id(subject: str, incarnation: int, version: int) -> str:
    """The identity of a change, the same everywhere."""
    return f"{subject}:{incarnation}:{version}"
