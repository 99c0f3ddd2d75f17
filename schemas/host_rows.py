"""Rows of the hosts stage's table (`hosts.table`, compacted, internal): what it remembers between two reports.

| key | row |
|---|---|
| `<host_id>` | HostRow |
| `<host_id>/<vm_id>` | VmRow: fingerprints of what this host last said of this VM; deleted when the VM is gone |
| `#partition` | PartitionRow, last in every batch |

A batch counts from its PartitionRow on: rows behind the last PartitionRow of the log belong to a batch that was torn,
a loader leaves them out and the inputs are applied again. (`min.compaction.lag.ms` keeps the rows they would replace;
where it did not, the row is missing, and the digest shows it.)

Ids are 16 raw bytes. HostRow is the one record that is not frozen: the stage works on it in place, a heartbeat moves
three of its numbers.
"""

from enum import IntEnum
from typing import ClassVar

import msgspec

from schemas.codec import Record, SchemaVersion
from schemas.facets import Facet
from schemas.ids import AgentEpoch, BootId, MachineId, RequestId, SnapshotId

PARTITION_KEY = b"#partition"

MARKED_FACETS: tuple[Facet, ...] = (
    Facet.IDENTITY,
    Facet.RUN,
    Facet.GUEST,
    Facet.CONSOLE,
    Facet.DEVICES,
    Facet.JOBS,
    Facet.NUMA,
    Facet.WATCHDOG,
)
"""Order of the fingerprints in `VmRow.marks`. Only ever appended to: a row of an older version is shorter."""


class Silence(IntEnum):
    """Is the host heard?"""

    HEARD = 0
    SILENT = 1
    STOPPED = 2
    """Silent after a farewell."""


class Retired(msgspec.Struct, frozen=True, array_like=True):
    """An agent epoch that a newer one replaced; reports of it are dropped."""

    boot_id: BootId
    agent_epoch: AgentEpoch
    at: int
    """Log-append time (ns) of the first report of the epoch that replaced it."""


class SnapshotProgress(msgspec.Struct, frozen=True, array_like=True):
    """A snapshot under way."""

    snapshot_id: SnapshotId
    parts: int
    heard: int
    """Parts 1 to this one came."""
    tick: int
    """When the last of them came."""
    whole: bool = True
    """No part and no report in between is missing."""
    answered: bool = False
    """It names the request that is open."""


class Resync(msgspec.Struct, frozen=True, array_like=True):
    """A need for a snapshot, open until one has ended."""

    force: bool
    reason: str
    request_id: RequestId = RequestId(b"")
    """Of the last request; empty before the first. Each has its own, since an agent answers an id once."""


class Conflict(msgspec.Struct, frozen=True, array_like=True):
    """Two agents speak for the host; over when one spoke alone for a full grace and answered a request (rule H3)."""

    boot_id: BootId
    """Of the agent that spoke last."""
    agent_epoch: AgentEpoch
    alone_since_tick: int
    asked: bool = False
    """It was alone for its grace; the next answer to a request ends the conflict."""


class HostFacetRow(msgspec.Struct, frozen=True, array_like=True):
    """A facet of the host as it was last readable."""

    value: bytes
    normal: bytes
    """Normalised fingerprint."""


class HostRow(Record, frozen=False, kw_only=True, array_like=True):  # type: ignore[misc]  # msgspec allows it
    """One host. Ticks are numbers of its partition's ticks, times log-append times in ns."""

    SCHEMA: ClassVar[SchemaVersion] = SchemaVersion(record="HostRow", major=1, minor=0)

    applied: int
    """Offset of the last input that touched the row."""
    machine_id: MachineId
    boot_id: BootId
    agent_epoch: AgentEpoch
    epoch_at: int
    """Append time of the epoch's first report."""
    seq: int = 0
    heard_offset: int = 0
    heard_at: int = 0
    heard_tick: int = 0
    observed_at: int = 0
    """The agent's wall clock; shown only."""
    digest: int = 0
    """Sum of the low halves of all fingerprints: `marks` and the host's VmRows."""
    vm_count: int = 0
    retired: list[Retired] = []
    """Oldest first."""
    stale_epoch: AgentEpoch = AgentEpoch(b"")
    stale_reports: int = 0
    """Reports of that retired epoch which came too late to be under way when it was replaced."""
    silence: Silence = Silence.HEARD
    silent_tick: int = 0
    """When it fell silent."""
    mass: bool = False
    """It fell silent together with many."""
    farewell: str | None = None
    """The reason given, while the farewell is the agent's last word."""
    disconnected_tick: int | None = None
    """Since when the agent says that its source is away."""
    degraded: bool = False
    maintenance: bool = False
    fenced_boot: BootId | None = None
    conflict: Conflict | None = None
    confirmed: bool = False
    grounded: bool = False
    """A complete snapshot of this epoch was heard, so that an equal digest confirms."""
    snapshot: SnapshotProgress | None = None
    resync: Resync | None = None
    asked: int = 0
    """Requests since the digest last agreed (raises the back-off)."""
    ask_tick: int = 0
    """No request before this tick."""
    failures: int = 0
    """Complete snapshots in a row that left the same difference."""
    failed_difference: int = 0
    skewed_reports: int = 0
    flapping: bool = False
    skewed: bool = False
    mismatched: bool = False
    marks: dict[str, bytes] = {}
    """Raw fingerprints of host facets and storage claims, by the name under which they count."""
    facets: dict[str, HostFacetRow] = {}
    incarnation: int = 0
    version: int = 0
    detected_at: int = 0
    since: int = 0
    """Since when the reachability is what it is."""
    state_digest: int = 0
    shown_tick: int = 0
    """When host.state was last written."""


class VmRow(Record, frozen=True, kw_only=True, array_like=True):
    """What one host last said of one VM."""

    SCHEMA: ClassVar[SchemaVersion] = SchemaVersion(record="VmRow", major=1, minor=0)

    applied: int
    partition: int
    """Partition of the VM; murmur2 is too slow to compute it again."""
    marks: bytes
    """Of each facet as it last travelled on, 16 bytes in the order of MARKED_FACETS; zeros: never."""
    rejected: dict[str, bytes] = {}
    """What counts in the agent's digest instead: fingerprints of facets that went to dead.letters; empty for one that
    the agent no longer says, while the vms stage keeps it (rule A4)."""


class PartitionRow(Record, frozen=True, kw_only=True, array_like=True):
    """The partition itself."""

    SCHEMA: ClassVar[SchemaVersion] = SchemaVersion(record="PartitionRow", major=1, minor=2)

    applied: int
    log: int
    tick: int
    tick_at: int
    tick_owner: bytes
    restart_tick: int
    """Silence is counted from here at the earliest (plus the extra of a restart)."""
    resync_tokens: int
    rules_version: int
    topic_id: str = ""
    """Of host.reports, whose generation is `log`; empty in rows of version 1.0."""
    state_topic_id: str = ""
    """Of host.state, when all hosts were last written to it."""
    table_start: int = 0
    """Where the log of the table may begin; a later beginning means that rows were cut off."""
    newer_until: int = 0
    """Inputs below this offset may follow newer rules: the stage was rolled back after they were written."""


class AppliedOf(msgspec.Struct, frozen=True, array_like=True):
    """The first field of every row: how far its writer had read."""

    applied: int
