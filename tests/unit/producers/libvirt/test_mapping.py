"""Every row of the tables in docs/libvirt.md."""

from __future__ import annotations

import pytest

from producers.libvirt.chronicle import Chronicle
from producers.libvirt.mapping import Observed, dated, end_of, gone_reason_of, run_of
from producers.libvirt.numbers import Job, Paused, Running, Shutdown, Shutoff, State, Stopped
from schemas.facets.run import Migration, Run
from schemas.status import ENDED, ExitReason, ExitStatus, GoneReason, PauseErrno, PauseReason, Status

NOTHING = Chronicle()
GUEST = Chronicle(shutdown=Shutdown.GUEST)
HOST = Chronicle(shutdown=Shutdown.HOST)
PANICKED = Chronicle(panicked=True)

OUT_PRE_COPY = Run(
    status=Status.MIGRATING_FROM, reason="pre_copy", migration=Migration(direction="out", phase="pre_copy")
)
INCOMING = Run(status=Status.MIGRATING_TO, reason="incoming", migration=Migration(direction="in"))
PAUSED_POST_COPY_FAILED = Run(status=Status.PAUSED, pause_reason=PauseReason.POST_COPY_FAILED)


def up(reason: str | None) -> Run:
    return Run(status=Status.UP, reason=reason)


def paused(reason: PauseReason, errno: PauseErrno | None = None) -> Run:
    return Run(status=Status.PAUSED, pause_reason=reason, pause_errno=errno)


def down(word: str | None, status: ExitStatus | None, reason: ExitReason | None) -> Run:
    return Run(status=Status.DOWN, reason=word, exit_status=status, exit_reason=reason)


def crashed(reason: ExitReason) -> Run:
    return Run(status=Status.CRASHED, reason=reason.value, exit_status=ExitStatus.ERROR, exit_reason=reason)


def ended(stopped: Stopped, *, by: Shutdown) -> Chronicle:
    return Chronicle(shutdown=by, stopped=stopped)


ALIVE_ROWS = [
    (State.RUNNING, Running.UNKNOWN, NOTHING, up(None)),
    (State.RUNNING, Running.BOOTED, NOTHING, up("booted")),
    (State.RUNNING, Running.MIGRATED, NOTHING, up("migrated")),
    (State.RUNNING, Running.RESTORED, NOTHING, up("restored")),
    (State.RUNNING, Running.FROM_SNAPSHOT, NOTHING, up("from_snapshot")),
    (State.RUNNING, Running.UNPAUSED, NOTHING, up("unpaused")),
    (State.RUNNING, Running.MIGRATION_CANCELED, NOTHING, up("migration_canceled")),
    (State.RUNNING, Running.SAVE_CANCELED, NOTHING, up("save_canceled")),
    (State.RUNNING, Running.WAKEUP, NOTHING, up("wakeup")),
    (State.RUNNING, Running.CRASHED, NOTHING, up("crash_recovered")),
    (State.RUNNING, Running.POSTCOPY_FAILED, NOTHING, up("post_copy_failed")),
    (
        State.RUNNING,
        Running.POSTCOPY,
        NOTHING,
        Run(status=Status.MIGRATING_TO, reason="post_copy", migration=Migration(direction="in", phase="post_copy")),
    ),
    (State.RUNNING, 99, NOTHING, up(None)),
    (State.BLOCKED, 1, NOTHING, up(None)),
    (State.PAUSED, Paused.UNKNOWN, NOTHING, paused(PauseReason.UNKNOWN)),
    (State.PAUSED, Paused.USER, NOTHING, paused(PauseReason.USER)),
    (State.PAUSED, Paused.MIGRATION, NOTHING, INCOMING),
    (State.PAUSED, Paused.SAVE, NOTHING, Run(status=Status.SAVING)),
    (State.PAUSED, Paused.DUMP, NOTHING, paused(PauseReason.TRANSIENT_JOB)),
    (State.PAUSED, Paused.IOERROR, NOTHING, paused(PauseReason.IO_ERROR)),
    (
        State.PAUSED,
        Paused.IOERROR,
        Chronicle(io_errno=PauseErrno.ENOSPC),
        paused(PauseReason.IO_ERROR, PauseErrno.ENOSPC),
    ),
    (State.PAUSED, Paused.WATCHDOG, NOTHING, paused(PauseReason.WATCHDOG)),
    (State.PAUSED, Paused.FROM_SNAPSHOT, NOTHING, paused(PauseReason.SNAPSHOT)),
    (State.PAUSED, Paused.SHUTTING_DOWN, NOTHING, Run(status=Status.POWERING_DOWN)),
    (State.PAUSED, Paused.SNAPSHOT, NOTHING, paused(PauseReason.TRANSIENT_JOB)),
    (State.PAUSED, Paused.CRASHED, NOTHING, paused(PauseReason.GUEST_PANIC)),
    (State.PAUSED, Paused.STARTING_UP, NOTHING, Run(status=Status.STARTING)),
    (
        State.PAUSED,
        Paused.POSTCOPY,
        NOTHING,
        Run(
            status=Status.MIGRATING_FROM,
            reason="post_copy",
            migration=Migration(direction="out", phase="post_copy"),
        ),
    ),
    (State.PAUSED, Paused.POSTCOPY_FAILED, NOTHING, PAUSED_POST_COPY_FAILED),
    (State.PAUSED, 99, NOTHING, paused(PauseReason.UNKNOWN)),
    (State.SHUTDOWN, 0, GUEST, Run(status=Status.POWERING_DOWN, reason="guest")),
    (State.SHUTDOWN, 0, HOST, Run(status=Status.POWERING_DOWN, reason="host")),
    (State.SHUTDOWN, 0, Chronicle(shutdown=Shutdown.FINISHED), Run(status=Status.POWERING_DOWN)),
    (State.SHUTDOWN, 0, NOTHING, Run(status=Status.POWERING_DOWN)),
    (State.PMSUSPENDED, 0, NOTHING, Run(status=Status.SUSPENDED, reason="to_ram")),
]

ENDED_ROWS = [
    (Shutoff.UNKNOWN, NOTHING, down(None, None, None)),
    (Shutoff.SHUTDOWN, GUEST, down("shutdown", ExitStatus.NORMAL, ExitReason.GUEST_SHUTDOWN)),
    (Shutoff.SHUTDOWN, HOST, down("shutdown", ExitStatus.NORMAL, ExitReason.HOST_SHUTDOWN)),
    (
        Shutoff.SHUTDOWN,
        Chronicle(shutdown=Shutdown.FINISHED),
        down("shutdown", ExitStatus.NORMAL, ExitReason.UNKNOWN),
    ),
    (Shutoff.SHUTDOWN, NOTHING, down("shutdown", ExitStatus.NORMAL, ExitReason.UNKNOWN)),
    (Shutoff.DESTROYED, HOST, down("destroyed", ExitStatus.NORMAL, ExitReason.ADMIN_DESTROY)),
    (Shutoff.DESTROYED, NOTHING, down("destroyed", ExitStatus.NORMAL, ExitReason.ADMIN_DESTROY)),
    (Shutoff.CRASHED, NOTHING, crashed(ExitReason.QEMU_DIED)),
    (Shutoff.CRASHED, GUEST, crashed(ExitReason.QEMU_DIED)),
    (Shutoff.CRASHED, PANICKED, crashed(ExitReason.GUEST_PANIC)),
    (Shutoff.MIGRATED, NOTHING, down("migrated", ExitStatus.NORMAL, ExitReason.MIGRATED)),
    (Shutoff.FAILED, NOTHING, down("failed", ExitStatus.ERROR, ExitReason.START_FAILED)),
    (Shutoff.FROM_SNAPSHOT, NOTHING, down("from_snapshot", ExitStatus.NORMAL, ExitReason.REVERTED)),
    (Shutoff.DAEMON, NOTHING, down("daemon", ExitStatus.ERROR, ExitReason.QEMU_DIED)),
    (
        Shutoff.SAVED,
        NOTHING,
        Run(status=Status.SUSPENDED, reason="to_disk", exit_status=ExitStatus.NORMAL, exit_reason=ExitReason.SAVED),
    ),
    (99, NOTHING, down(None, None, None)),
]


@pytest.mark.parametrize(("state", "reason", "chronicle", "run"), ALIVE_ROWS)
def test_states_of_a_process(state: int, reason: int, chronicle: Chronicle, run: Run) -> None:
    assert run_of(Observed(state=state, reason=reason), chronicle, None) == run


@pytest.mark.parametrize(("reason", "chronicle", "run"), ENDED_ROWS)
def test_ends_of_a_run(reason: int, chronicle: Chronicle, run: Run) -> None:
    assert run_of(Observed(state=State.SHUTOFF, reason=reason), chronicle, up("booted")) == run


def test_every_reason_of_libvirt_has_a_row() -> None:
    assert {row[1] for row in ALIVE_ROWS if row[0] is State.RUNNING} >= set(Running)
    assert {row[1] for row in ALIVE_ROWS if row[0] is State.PAUSED} >= set(Paused)
    assert {row[0] for row in ENDED_ROWS} >= set(Shutoff)


def test_no_state_says_nothing() -> None:
    assert run_of(Observed(state=State.NOSTATE, reason=0), NOTHING, up("booted")) is None
    assert run_of(Observed(state=42, reason=0), NOTHING, up("booted")) is None


def test_crashed_domain_that_is_kept_is_a_guest_panic() -> None:
    for reason in (0, 1):
        assert run_of(Observed(state=State.CRASHED, reason=reason), NOTHING, up("booted")) == crashed(
            ExitReason.GUEST_PANIC
        )


def test_outgoing_migration_is_told_by_its_job() -> None:
    job = Job.MIGRATION_OUT
    assert run_of(Observed(state=State.RUNNING, reason=Running.BOOTED, job=job), NOTHING, None) == OUT_PRE_COPY
    final = run_of(Observed(state=State.PAUSED, reason=Paused.MIGRATION, job=job), NOTHING, OUT_PRE_COPY)
    assert final == Run(
        status=Status.MIGRATING_FROM, reason="final_pause", migration=Migration(direction="out", phase="final_pause")
    )


@pytest.mark.parametrize("job", [job for job in Job if job is not Job.MIGRATION_OUT])
def test_other_jobs_are_no_migration(job: Job) -> None:
    assert run_of(Observed(state=State.RUNNING, reason=Running.BOOTED, job=job), NOTHING, None) == up("booted")


def test_rebooting_only_while_running() -> None:
    running = Observed(state=State.RUNNING, reason=Running.BOOTED, rebooting=True)
    assert run_of(running, NOTHING, None) == Run(status=Status.REBOOTING, reason="booted")
    stopped = Observed(state=State.PAUSED, reason=Paused.USER, rebooting=True)
    assert run_of(stopped, NOTHING, None) == paused(PauseReason.USER)


def test_managed_save_image_means_suspended_whatever_the_reason() -> None:
    run = run_of(Observed(state=State.SHUTOFF, reason=Shutoff.UNKNOWN, managed_save=True), NOTHING, None)
    assert run is not None
    assert (run.status, run.exit_reason) == (Status.SUSPENDED, ExitReason.SAVED)


@pytest.mark.parametrize("reason", [Shutoff.CRASHED, Shutoff.DESTROYED])
def test_incoming_side_that_dies_is_a_failed_migration_and_stays_one(reason: Shutoff) -> None:
    observed = Observed(state=State.SHUTOFF, reason=reason)
    run = run_of(observed, NOTHING, INCOMING)
    assert run is not None
    assert (run.status, run.exit_status) == (Status.DOWN, ExitStatus.ERROR)
    assert run.exit_reason is ExitReason.MIGRATION_FAILED
    assert run_of(observed, NOTHING, run) == run


def test_end_after_a_failed_post_copy() -> None:
    run = run_of(Observed(state=State.SHUTOFF, reason=Shutoff.DESTROYED), HOST, PAUSED_POST_COPY_FAILED)
    assert run is not None
    assert run.exit_reason is ExitReason.POST_COPY_FAILED


@pytest.mark.parametrize("stopped", list(Stopped))
def test_end_is_kept_when_libvirtd_forgets_it(stopped: Stopped) -> None:
    forgotten = Observed(state=State.SHUTOFF, reason=Shutoff.UNKNOWN)
    by_event = run_of(forgotten, Chronicle(stopped=stopped), up("booted"))
    assert by_event is not None
    assert by_event.status in ENDED
    assert by_event.exit_reason is not None
    assert run_of(forgotten, NOTHING, by_event) == by_event


def test_end_nobody_saw_and_libvirtd_forgot_is_not_invented() -> None:
    assert run_of(Observed(state=State.SHUTOFF, reason=Shutoff.UNKNOWN), NOTHING, up("booted")) == down(
        None, None, None
    )


@pytest.mark.parametrize(
    ("chronicle", "previous", "status", "exit_reason"),
    [
        (
            Chronicle(shutdown=Shutdown.GUEST, stopped=Stopped.SHUTDOWN),
            up(None),
            Status.DOWN,
            ExitReason.GUEST_SHUTDOWN,
        ),
        (Chronicle(shutdown=Shutdown.HOST, stopped=Stopped.SHUTDOWN), up(None), Status.DOWN, ExitReason.HOST_SHUTDOWN),
        (Chronicle(shutdown=Shutdown.HOST, stopped=Stopped.DESTROYED), up(None), Status.DOWN, ExitReason.ADMIN_DESTROY),
        (Chronicle(shutdown=Shutdown.FINISHED, stopped=Stopped.SHUTDOWN), up(None), Status.DOWN, ExitReason.UNKNOWN),
        (Chronicle(stopped=Stopped.FAILED), up(None), Status.CRASHED, ExitReason.QEMU_DIED),
        (Chronicle(stopped=Stopped.FAILED), INCOMING, Status.DOWN, ExitReason.MIGRATION_FAILED),
        (Chronicle(stopped=Stopped.FAILED), PAUSED_POST_COPY_FAILED, Status.DOWN, ExitReason.POST_COPY_FAILED),
        (Chronicle(stopped=Stopped.CRASHED, panicked=True), up(None), Status.CRASHED, ExitReason.GUEST_PANIC),
        (Chronicle(stopped=Stopped.MIGRATED), up(None), Status.DOWN, ExitReason.MIGRATED),
        (Chronicle(stopped=Stopped.SAVED), up(None), Status.SUSPENDED, ExitReason.SAVED),
        (Chronicle(stopped=Stopped.FROM_SNAPSHOT), up(None), Status.DOWN, ExitReason.REVERTED),
    ],
)
def test_last_words_of_a_domain_that_left_nothing(
    chronicle: Chronicle, previous: Run, status: Status, exit_reason: ExitReason
) -> None:
    end = end_of(chronicle, previous)
    assert end is not None
    assert (end.status, end.exit_reason) == (status, exit_reason)


def test_no_last_words_without_an_event() -> None:
    assert end_of(GUEST, up("booted")) is None


@pytest.mark.parametrize(
    ("chronicle", "reason"),
    [
        (NOTHING, GoneReason.ABSENT),
        (GUEST, GoneReason.ABSENT),
        (Chronicle(undefined=True), GoneReason.UNDEFINED),
        (Chronicle(stopped=Stopped.DESTROYED), GoneReason.TRANSIENT_ENDED),
        (Chronicle(stopped=Stopped.DESTROYED, undefined=True), GoneReason.UNDEFINED),
        (Chronicle(stopped=Stopped.MIGRATED), GoneReason.MIGRATED),
        (Chronicle(stopped=Stopped.MIGRATED, undefined=True), GoneReason.MIGRATED),
    ],
)
def test_why_a_domain_is_gone(chronicle: Chronicle, reason: GoneReason) -> None:
    assert gone_reason_of(chronicle) is reason


def test_since_moves_with_the_status_alone() -> None:
    first = dated(up("booted"), None, observed_at=None, process_id="1-7", started_at=5)
    assert (first.since, first.process_id, first.started_at) == (None, "1-7", 5)
    unpaused = dated(up("unpaused"), first, observed_at=20, process_id="1-7", started_at=5)
    assert unpaused.since is None
    over = dated(down("destroyed", None, None), unpaused, observed_at=30, process_id=None, started_at=None)
    assert over.since == 30
    again = dated(down("destroyed", None, None), over, observed_at=40, process_id=None, started_at=None)
    assert again == over
