"""Words for the state of a VM and of a host (rules §2, §3)."""

from enum import StrEnum

from schemas.members import at_hand


@at_hand
class Status(StrEnum):
    """What a VM does. In reports: what the host says; in changes: what the stage derived."""

    DOWN = "down"
    STARTING = "starting"
    POWERING_UP = "powering_up"
    UP = "up"
    REBOOTING = "rebooting"
    POWERING_DOWN = "powering_down"
    PAUSED = "paused"
    MIGRATING_FROM = "migrating_from"
    MIGRATING_TO = "migrating_to"
    SAVING = "saving"
    RESTORING = "restoring"
    SUSPENDED = "suspended"
    CRASHED = "crashed"
    NOT_RESPONDING = "not_responding"
    REMOVED = "removed"


RUNNING = frozenset(
    {
        Status.UP,
        Status.POWERING_UP,
        Status.POWERING_DOWN,
        Status.REBOOTING,
        Status.MIGRATING_FROM,
        Status.MIGRATING_TO,
        Status.NOT_RESPONDING,
    }
)
ALIVE = RUNNING | {Status.STARTING, Status.PAUSED, Status.SAVING, Status.RESTORING}
ENDED = frozenset({Status.DOWN, Status.SUSPENDED, Status.CRASHED, Status.REMOVED})


@at_hand
class PauseReason(StrEnum):
    """Why the vCPUs stand still."""

    USER = "user"
    IO_ERROR = "io_error"
    WATCHDOG = "watchdog"
    GUEST_PANIC = "guest_panic"
    SNAPSHOT = "snapshot"
    SAVE = "save"
    POST_COPY = "post_copy"
    POST_COPY_FAILED = "post_copy_failed"
    TRANSIENT_JOB = "transient_job"
    UNKNOWN = "unknown"


@at_hand
class PauseErrno(StrEnum):
    """Kind of an I/O error that paused a VM."""

    ENOSPC = "enospc"
    EIO = "eio"
    EPERM = "eperm"
    EOTHER = "eother"


@at_hand
class ExitStatus(StrEnum):
    """How a run ended."""

    NORMAL = "normal"
    ERROR = "error"
    UNKNOWN = "unknown"


@at_hand
class ExitReason(StrEnum):
    """Why a run ended."""

    GUEST_SHUTDOWN = "guest_shutdown"
    HOST_SHUTDOWN = "host_shutdown"
    ADMIN_DESTROY = "admin_destroy"
    QEMU_DIED = "qemu_died"
    GUEST_PANIC = "guest_panic"
    START_FAILED = "start_failed"
    MIGRATED = "migrated"
    MIGRATION_FAILED = "migration_failed"
    POST_COPY_FAILED = "post_copy_failed"
    SAVED = "saved"
    REVERTED = "reverted"
    DESTROYED_ON_REBOOT = "destroyed_on_reboot"
    PAUSE_TIMEOUT = "pause_timeout"
    HOST_LOST = "host_lost"
    LOST = "lost"
    UNKNOWN = "unknown"


@at_hand
class GoneReason(StrEnum):
    """Why a VM left a host's list."""

    UNDEFINED = "undefined"
    TRANSIENT_ENDED = "transient_ended"
    MIGRATED = "migrated"
    ABSENT = "absent"


@at_hand
class Believed(StrEnum):
    """May the status be believed now?"""

    KNOWN = "known"
    UNKNOWN = "unknown"
    CONFLICT = "conflict"


@at_hand
class Doubt(StrEnum):
    """Why a status is not known; declared in the order in which they are shown (rule H2b)."""

    CONFLICT = "conflict"
    QUARANTINED = "quarantined"
    JUDGING = "judging"
    HANDING_OVER = "handing_over"
    MIGRATED_AWAY = "migrated_away"
    HOST_CONFLICT = "host_conflict"
    UNREAD = "unread"
    LIBVIRT_UNREACHABLE = "libvirt_unreachable"
    HOST_SILENT = "host_silent"
    AGENT_STOPPED = "agent_stopped"
    REBUILDING = "rebuilding"


@at_hand
class Reachability(StrEnum):
    """What is known of a host (rules §3)."""

    UP = "up"
    SILENT = "silent"
    AGENT_STOPPED = "agent_stopped"
    DEGRADED = "degraded"
    CONFLICT = "conflict"
    MAINTENANCE = "maintenance"
    FENCED = "fenced"
    UNKNOWN = "unknown"
