"""The table of ownership: what evidence of a host that is not the owner means (rules §5).

Only the table and the two ways of reading its axes; what a verdict does stands in `rivals`.
"""

from enum import Enum
from typing import Final

from schemas.members import at_hand
from schemas.status import ENDED, PauseReason, Status
from streams.vms.state import Claim, Vm


@at_hand
class Word(Enum):
    """What the other host says; the rows."""

    RUNNING = "running"
    STARTING = "starting"
    INCOMING = "incoming"
    PAUSED = "paused"
    POST_COPY = "post_copy"
    """Source of a post-copy migration: its memory is already the destination's."""
    DEFINED = "defined"
    """It has the VM, not running."""


@at_hand
class Standing(Enum):
    """How the VM stands; the columns."""

    NOBODY = "nobody"
    """No owner."""
    ENDED = "ended"
    UNKNOWN = "unknown"
    """The owner's claim is alive, and not to be believed now."""
    KNOWN = "known"


@at_hand
class Verdict(Enum):
    """What to do; the cells."""

    ADOPT = "adopt"
    """Owner := this host, a new run."""
    REMEMBER = "remember"
    """Keep the claim, nothing else."""
    MOVE_OR_ADOPT = "move_or_adopt"
    """Hand over when a migration brought it, else adopt; `conflict` if this host lost this run."""
    MOVE_OR_CONFLICT = "move_or_conflict"
    """Hand over when a migration brought it, else `conflict` when settled."""
    COPY = "copy"
    """A paused copy beside a known owner: `conflict` when settled, unless a migration explains it."""


OWNERSHIP: Final[dict[Word, dict[Standing, Verdict]]] = {
    Word.RUNNING: {
        Standing.NOBODY: Verdict.ADOPT,
        Standing.ENDED: Verdict.ADOPT,
        Standing.UNKNOWN: Verdict.MOVE_OR_ADOPT,
        Standing.KNOWN: Verdict.MOVE_OR_CONFLICT,
    },
    Word.STARTING: {
        Standing.NOBODY: Verdict.ADOPT,
        Standing.ENDED: Verdict.ADOPT,
        Standing.UNKNOWN: Verdict.REMEMBER,
        Standing.KNOWN: Verdict.REMEMBER,
    },
    Word.INCOMING: {
        Standing.NOBODY: Verdict.ADOPT,
        Standing.ENDED: Verdict.REMEMBER,
        Standing.UNKNOWN: Verdict.REMEMBER,
        Standing.KNOWN: Verdict.REMEMBER,
    },
    Word.PAUSED: {
        Standing.NOBODY: Verdict.ADOPT,
        Standing.ENDED: Verdict.ADOPT,
        Standing.UNKNOWN: Verdict.MOVE_OR_ADOPT,
        Standing.KNOWN: Verdict.COPY,
    },
    Word.POST_COPY: {
        Standing.NOBODY: Verdict.ADOPT,
        Standing.ENDED: Verdict.REMEMBER,
        Standing.UNKNOWN: Verdict.REMEMBER,
        Standing.KNOWN: Verdict.REMEMBER,
    },
    Word.DEFINED: {
        Standing.NOBODY: Verdict.ADOPT,
        Standing.ENDED: Verdict.REMEMBER,
        Standing.UNKNOWN: Verdict.REMEMBER,
        Standing.KNOWN: Verdict.REMEMBER,
    },
}
"""NOBODY adopts whatever is alive or defined: an alive row without an owner must not exist (O8, A6)."""

_PLAIN: Final = {
    Status.STARTING: Word.STARTING,
    Status.RESTORING: Word.STARTING,
    Status.MIGRATING_TO: Word.INCOMING,
    Status.PAUSED: Word.PAUSED,
}


def word_of(claim: Claim) -> Word:
    """The row of a claim that still lists the VM and has said a status."""
    status = claim.status
    if status is None or status in ENDED:
        return Word.DEFINED
    if status is Status.PAUSED and claim.pause_reason is PauseReason.POST_COPY:
        return Word.POST_COPY
    if status is Status.PAUSED and claim.lost and claim.pause_reason is PauseReason.POST_COPY_FAILED:
        return Word.POST_COPY
    if status is Status.MIGRATING_FROM and claim.phase == "post_copy":
        return Word.POST_COPY
    return _PLAIN.get(status, Word.RUNNING)


def standing_of(vm: Vm, *, known: bool) -> Standing:
    """The column of a VM. A conflict is no reason to take it away from its owner: it counts as known."""
    if vm.owner is None:
        return Standing.NOBODY
    if not vm.alive:
        return Standing.ENDED
    return Standing.KNOWN if known else Standing.UNKNOWN
