"""Facet `run`: what the VM does, as its host says it."""

import msgspec

from schemas.ownership import Noted, Reported
from schemas.status import ExitReason, ExitStatus, PauseErrno, PauseReason, Status
from schemas.text import Name, Text


class Migration(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A migration under way; progress figures are statistics."""

    direction: str
    """`out` or `in`."""
    peer: str | None = None
    """host_id text of the other side, where the source knows it."""
    phase: str | None = None
    """`pre_copy`, `post_copy` or `final_pause`."""


class Run(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Life-cycle state; `status` is the host's word, the derived status stands in the change itself."""

    status: Reported[Status]
    reason: Reported[Name | None] = None
    since: Noted[int | None] = None
    """Wall clock, int64 UTC ns, when the host first saw this status."""
    process_id: Reported[Name | None] = None
    """Host-local name of the process, stable over agent and libvirtd restarts; unique within a boot."""
    started_at: Noted[int | None] = None
    exit_status: Reported[ExitStatus | None] = None
    exit_reason: Reported[ExitReason | None] = None
    exit_message: Reported[Text | None] = None
    pause_reason: Reported[PauseReason | None] = None
    pause_errno: Reported[PauseErrno | None] = None
    migration: Reported[Migration | None] = None
