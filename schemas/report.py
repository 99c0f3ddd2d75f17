"""HostReport: one statement of one host agent, on `host.reports` (agent -> hosts stage).

`seq` counts from 1 per epoch without holes. `digest` and `vm_count` describe the agent's whole state *after* this
report, so every message proves that both sides agree. A snapshot is sent only after a successful listing; its last
part also carries the inventory of all ids as of its own seq. Only whole facets travel: an absent facet is unchanged.
"""

from typing import ClassVar

import msgspec

from schemas.codec import Record, SchemaVersion
from schemas.ids import AgentEpoch, BootId, HostId, MachineId, RequestId, SnapshotId, VmId
from schemas.status import GoneReason

MAX_VMS_PER_REPORT = 4096
ENVELOPE_TARGET_BYTES = 512 * 1024
"""An agent starts another report before an envelope grows beyond this."""


class VmFacets(msgspec.Struct, frozen=True, kw_only=True):
    """The changed facets of one VM (in a snapshot: all of them), by facet name, as canonical bytes."""

    vm_id: VmId
    facets: dict[str, bytes]


class Gone(msgspec.Struct, frozen=True, kw_only=True):
    """A VM that left this host's list, and why."""

    vm_id: VmId
    reason: GoneReason


class Changes(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="changes"):
    """What changed since the last report; without any content it is a heartbeat."""

    vms: list[VmFacets] = []
    gone: list[Gone] = []
    host: dict[str, bytes] = {}
    storage: dict[str, bytes] = {}
    """Changed storage claims: domain id text -> canonical bytes of a StorageClaim."""
    storage_gone: list[str] = []


class SnapshotPart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="snapshot"):
    """Part `part` (from 1) of `parts`: VMs whole. Host facets and storage claims travel in part 1."""

    snapshot_id: SnapshotId
    part: int
    parts: int
    vms: list[VmFacets] = []
    host: dict[str, bytes] = {}
    storage: dict[str, bytes] = {}
    answers: list[RequestId] = []
    """Resync requests that this snapshot answers."""
    force: bool = False
    """Asked with force: passes the gate whole."""
    inventory: list[VmId] | None = None
    """In the last part only: every VM the agent knows, as of this seq."""


class Farewell(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="farewell"):
    """The agent stops on purpose; changes the reason that a later silence has, not its time (rule H5)."""

    reason: str = ""


class HostReport(Record, frozen=True, kw_only=True):
    """Envelope; a wall clock (`*_at`, int64 UTC ns) never orders anything, the position in the log does."""

    SCHEMA: ClassVar[SchemaVersion] = SchemaVersion(record="HostReport", major=1, minor=0)

    host_id: HostId
    machine_id: MachineId
    boot_id: BootId
    agent_epoch: AgentEpoch
    seq: int
    observed_at: int
    observed_monotonic_ns: int
    sent_at: int
    sent_monotonic_ns: int
    vm_count: int
    digest: int
    body: Changes | SnapshotPart | Farewell
