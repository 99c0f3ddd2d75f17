"""libvirt's state, reason and events as our words for a run. Pure.

The sources are the tables of `docs/libvirt.md`. Whatever libvirt does not say stays None: a guess here would be
taken for evidence by every stage after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from producers.libvirt.chronicle import Chronicle
from producers.libvirt.numbers import Job, Paused, Running, Shutdown, Shutoff, State, Stopped
from schemas.facets.run import Migration, Run
from schemas.status import ALIVE, ExitReason, ExitStatus, GoneReason, PauseReason, Status

Exit = tuple[ExitStatus | None, ExitReason | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """What libvirt says of one domain at one moment, in its numbers."""

    state: int
    reason: int
    job: int | None = None
    """Operation of the running job; None when there is none or it could not be asked."""
    managed_save: bool = False
    """An image of the saved memory waits for the next start."""
    rebooting: bool = False
    """Within the window of a guest reboot."""


_RUNNING_WORDS: Final[dict[int, str]] = {
    Running.BOOTED: "booted",
    Running.MIGRATED: "migrated",
    Running.RESTORED: "restored",
    Running.FROM_SNAPSHOT: "from_snapshot",
    Running.UNPAUSED: "unpaused",
    Running.MIGRATION_CANCELED: "migration_canceled",
    Running.SAVE_CANCELED: "save_canceled",
    Running.WAKEUP: "wakeup",
    Running.CRASHED: "crash_recovered",
    Running.POSTCOPY_FAILED: "post_copy_failed",
}

_PAUSED_WORDS: Final[dict[int, PauseReason]] = {
    Paused.USER: PauseReason.USER,
    Paused.FROM_SNAPSHOT: PauseReason.SNAPSHOT,
    Paused.DUMP: PauseReason.TRANSIENT_JOB,
    Paused.SNAPSHOT: PauseReason.TRANSIENT_JOB,
    Paused.IOERROR: PauseReason.IO_ERROR,
    Paused.WATCHDOG: PauseReason.WATCHDOG,
    Paused.CRASHED: PauseReason.GUEST_PANIC,
    Paused.POSTCOPY_FAILED: PauseReason.POST_COPY_FAILED,
}

_SHUTOFF_WORDS: Final[dict[int, str]] = {
    Shutoff.SHUTDOWN: "shutdown",
    Shutoff.DESTROYED: "destroyed",
    Shutoff.MIGRATED: "migrated",
    Shutoff.FAILED: "failed",
    Shutoff.FROM_SNAPSHOT: "from_snapshot",
    Shutoff.DAEMON: "daemon",
}

_SHUTOFF_AFTER: Final = {
    Stopped.SHUTDOWN: Shutoff.SHUTDOWN,
    Stopped.DESTROYED: Shutoff.DESTROYED,
    Stopped.CRASHED: Shutoff.CRASHED,
    Stopped.MIGRATED: Shutoff.MIGRATED,
    Stopped.SAVED: Shutoff.SAVED,
    Stopped.FAILED: Shutoff.CRASHED,
    Stopped.FROM_SNAPSHOT: Shutoff.FROM_SNAPSHOT,
}
"""The state that a persistent domain shows after each STOPPED event."""

_PLAIN_EXITS: Final[dict[int, Exit]] = {
    Shutoff.DESTROYED: (ExitStatus.NORMAL, ExitReason.ADMIN_DESTROY),
    Shutoff.MIGRATED: (ExitStatus.NORMAL, ExitReason.MIGRATED),
    Shutoff.SAVED: (ExitStatus.NORMAL, ExitReason.SAVED),
    Shutoff.FAILED: (ExitStatus.ERROR, ExitReason.START_FAILED),
    Shutoff.FROM_SNAPSHOT: (ExitStatus.NORMAL, ExitReason.REVERTED),
    Shutoff.CRASHED: (ExitStatus.ERROR, ExitReason.QEMU_DIED),
    # libvirtd killed a process whose monitor it could not get back after its own restart.
    Shutoff.DAEMON: (ExitStatus.ERROR, ExitReason.QEMU_DIED),
}

_SHUTDOWN_WORDS: Final[dict[Shutdown | None, str]] = {Shutdown.GUEST: "guest", Shutdown.HOST: "host"}
_SHUTDOWN_EXITS: Final[dict[Shutdown | None, ExitReason]] = {
    Shutdown.GUEST: ExitReason.GUEST_SHUTDOWN,
    Shutdown.HOST: ExitReason.HOST_SHUTDOWN,
}


def run_of(observed: Observed, chronicle: Chronicle, previous: Run | None) -> Run | None:
    """The run facet but for process and times; None when libvirt gives no state (then nothing may be concluded).

    ``previous`` is the facet read before of the same VM: it tells an incoming migration that failed from a death,
    and keeps the end of a run that libvirtd has forgotten over its own restart.
    """
    match observed.state:
        case State.RUNNING | State.BLOCKED:
            return _running(observed)
        case State.PAUSED:
            return _paused(observed, chronicle)
        case State.SHUTDOWN:
            return Run(status=Status.POWERING_DOWN, reason=_SHUTDOWN_WORDS.get(chronicle.shutdown))
        case State.SHUTOFF:
            return _shut_off(observed, chronicle, previous)
        case State.CRASHED:
            return _crashed(ExitReason.GUEST_PANIC)
        case State.PMSUSPENDED:
            return Run(status=Status.SUSPENDED, reason="to_ram")
    return None


def end_of(chronicle: Chronicle, previous: Run | None) -> Run | None:
    """The last run facet of a domain that left nothing behind, from its events; None without a STOPPED event."""
    if chronicle.stopped is None:
        return None
    return _ended(_SHUTOFF_AFTER[chronicle.stopped], chronicle, previous)


def gone_reason_of(chronicle: Chronicle) -> GoneReason:
    """Why a domain is not in libvirt's list any more; `ABSENT` when no event told."""
    if chronicle.stopped is Stopped.MIGRATED:
        return GoneReason.MIGRATED
    if chronicle.undefined:
        return GoneReason.UNDEFINED
    if chronicle.stopped is not None:
        return GoneReason.TRANSIENT_ENDED
    return GoneReason.ABSENT


def _running(observed: Observed) -> Run:
    if observed.job == Job.MIGRATION_OUT:
        return Run(status=Status.MIGRATING_FROM, reason="pre_copy", migration=_outgoing("pre_copy"))
    if observed.reason == Running.POSTCOPY:
        incoming = Migration(direction="in", phase="post_copy")
        return Run(status=Status.MIGRATING_TO, reason="post_copy", migration=incoming)
    status = Status.REBOOTING if observed.rebooting else Status.UP
    return Run(status=status, reason=_RUNNING_WORDS.get(observed.reason) if observed.state == State.RUNNING else None)


def _paused(observed: Observed, chronicle: Chronicle) -> Run:
    match observed.reason:
        case Paused.MIGRATION if observed.job == Job.MIGRATION_OUT:
            return Run(status=Status.MIGRATING_FROM, reason="final_pause", migration=_outgoing("final_pause"))
        case Paused.MIGRATION:
            return Run(status=Status.MIGRATING_TO, reason="incoming", migration=Migration(direction="in"))
        case Paused.POSTCOPY:
            return Run(status=Status.MIGRATING_FROM, reason="post_copy", migration=_outgoing("post_copy"))
        case Paused.SAVE:
            return Run(status=Status.SAVING)
        case Paused.SHUTTING_DOWN:
            return Run(status=Status.POWERING_DOWN)
        case Paused.STARTING_UP:
            # An incoming migration passes through this too: `powering_up` would claim the VM, `starting` does not.
            return Run(status=Status.STARTING)
        case Paused.IOERROR:
            return Run(status=Status.PAUSED, pause_reason=PauseReason.IO_ERROR, pause_errno=chronicle.io_errno)
    return Run(status=Status.PAUSED, pause_reason=_PAUSED_WORDS.get(observed.reason, PauseReason.UNKNOWN))


def _outgoing(phase: str) -> Migration:
    return Migration(direction="out", phase=phase)


def _shut_off(observed: Observed, chronicle: Chronicle, previous: Run | None) -> Run:
    reason = Shutoff(observed.reason) if observed.reason in tuple(Shutoff) else Shutoff.UNKNOWN
    if reason is Shutoff.UNKNOWN:
        # Either never started, or libvirtd was restarted since the end: it keeps no reason of inactive domains.
        if chronicle.stopped is not None:
            reason = _SHUTOFF_AFTER[chronicle.stopped]
        elif previous is not None and previous.status not in ALIVE:
            return previous
    if observed.managed_save:
        reason = Shutoff.SAVED
    return _ended(reason, chronicle, previous)


def _ended(reason: Shutoff, chronicle: Chronicle, previous: Run | None) -> Run:
    exit_status, exit_reason = _exit_of(reason, chronicle, previous)
    if exit_reason in (ExitReason.QEMU_DIED, ExitReason.GUEST_PANIC) and reason is Shutoff.CRASHED:
        return _crashed(exit_reason)
    if reason is Shutoff.SAVED:
        return Run(status=Status.SUSPENDED, reason="to_disk", exit_status=exit_status, exit_reason=exit_reason)
    word = "failed" if reason is Shutoff.CRASHED else _SHUTOFF_WORDS.get(reason)
    return Run(status=Status.DOWN, reason=word, exit_status=exit_status, exit_reason=exit_reason)


def _exit_of(reason: Shutoff, chronicle: Chronicle, previous: Run | None) -> Exit:
    if reason is Shutoff.SHUTDOWN:
        return ExitStatus.NORMAL, _SHUTDOWN_EXITS.get(chronicle.shutdown, ExitReason.UNKNOWN)
    if reason is Shutoff.CRASHED and chronicle.panicked:
        return ExitStatus.ERROR, ExitReason.GUEST_PANIC
    if reason in (Shutoff.CRASHED, Shutoff.DESTROYED, Shutoff.FAILED) and previous is not None:
        if previous.status is Status.MIGRATING_TO:
            return ExitStatus.ERROR, ExitReason.MIGRATION_FAILED
        if previous.pause_reason is PauseReason.POST_COPY_FAILED or previous.reason == "post_copy_failed":
            return ExitStatus.ERROR, ExitReason.POST_COPY_FAILED
        if _ended_alike(reason, previous):
            return previous.exit_status, previous.exit_reason
    return _PLAIN_EXITS.get(reason, (None, None))


def _ended_alike(reason: Shutoff, previous: Run) -> bool:
    """True when ``previous`` is the same end, read before with more context (a failed migration, say)."""
    return (
        previous.status is Status.DOWN
        and previous.exit_reason in (ExitReason.MIGRATION_FAILED, ExitReason.POST_COPY_FAILED)
        and reason is not Shutoff.FAILED
    )


def _crashed(reason: ExitReason) -> Run:
    return Run(status=Status.CRASHED, reason=reason.value, exit_status=ExitStatus.ERROR, exit_reason=reason)


def dated(
    run: Run, previous: Run | None, *, observed_at: int | None, process_id: str | None, started_at: int | None
) -> Run:
    """``run`` with its process and times.

    ``since`` moves only when the status does; ``observed_at`` is None when the VM may have been in this status before
    anybody looked. A run that is over has no process: so the facet is the same before and after an agent restart.
    """
    since = previous.since if previous is not None and previous.status is run.status else observed_at
    return msgspec.structs.replace(run, since=since, process_id=process_id, started_at=started_at)
