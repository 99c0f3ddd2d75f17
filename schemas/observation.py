"""ObservationBatch: evidence on its way from the hosts stage to the vms stage (`vm.observations`, internal).

One message holds what one hosts partition has to say to one vms partition: its clock reading and, per input record,
VMs, inventory and host observations, in that order. Arrays on the wire; ids are 16 raw bytes.

How to read it:
- Reports stand in the order of the log. Apply them first, the clock reading after them: everything that was appended
  before that tick, and concerns this vms partition, has then been heard. `tick` 0 means that none has counted yet.
- A restart of the hosts stage sends again what it may have sent before: the same statements under the same offsets,
  in other batches perhaps. A statement at or below a position already applied is a repeat.
- Host events of one report stand in the order in which they hold: `BACK` before `NEW_BOOT`, `CONFLICT_ENDED` before
  `CONFIRMED`.
- While a host conflict lasts the hosts stage sends neither inventory nor `absent` nor `NEW_BOOT` of that host. The
  report that carries `CONFLICT_ENDED` carries the inventory by which absence counts again.
- Batches of one source form a chain: `since` of each is at or below `until` of what was heard before. One that begins
  above it proves that a batch between was lost, or comes later.
- Once an hour, for each heard host, the sums of its facets: the evidence is the tick, so they stand in the order of the
  log like everything else, and a position above it that had an effect makes them void.
"""

from enum import IntEnum
from typing import ClassVar

import msgspec

from schemas.codec import Record, SchemaVersion
from schemas.ids import AgentEpoch, BootId, HostId, RequestId, VmId
from schemas.members import at_hand
from schemas.status import GoneReason


@at_hand
class HostEvent(IntEnum):
    """What the hosts stage says of a host to every vms partition."""

    SILENT = 1
    """Nothing heard for the grace: unknown/host_silent (or agent_stopped after a farewell)."""
    STOPPED = 2
    """Instead of SILENT when the last word was a farewell: unknown/agent_stopped."""
    BACK = 3
    """First admitted report after silence; VMs are not yet confirmed.

    Also the first report ever heard of a host; it may be of another boot than old claims know if the hosts stage lost
    its table (then no NEW_BOOT comes), so the boot in the report counts.
    """
    DEGRADED = 4
    """Agent alive, its source is not, for more than 60 ticks. Unconfirmed from here on."""
    RECOVERED = 5
    """The source is reachable again; a complete snapshot is asked for, CONFIRMED comes with it."""
    CONFIRMED = 6
    """Same epoch and matching digest, or a complete snapshot: what this host said may be believed.

    Said again with the end of each whole snapshot asked with force, for who lost evidence that we have.
    """
    NEW_BOOT = 7
    """First report of another boot: nothing of the old boot runs any more; judged at CONFIRMED (rule S3)."""
    CONFLICT = 8
    """Two agents speak for this host (rule H3)."""
    CONFLICT_ENDED = 9
    NEW_EPOCH = 10
    """Another agent process: what it said before is unconfirmed until CONFIRMED, but stays known.

    Sent alone when the boot is the same; with another boot only NEW_BOOT is sent.
    """
    UNCONFIRMED = 11
    """Reports of it were lost before they were read (a gap): as NEW_EPOCH, but of the same agent."""
    REBUILDING = 12
    """All that was known of it was lost, whether it is there too: unknown/rebuilding until CONFIRMED."""


class HostObservation(msgspec.Struct, frozen=True, array_like=True):
    """One statement about the host itself."""

    event: HostEvent
    mass: bool = False


class VmObservation(msgspec.Struct, frozen=True, array_like=True):
    """One statement about one VM: changed facets whole, or why it is gone from the host's list."""

    vm_id: VmId
    facets: dict[str, bytes] = {}
    gone: GoneReason | None = None


class FacetSum(msgspec.Struct, frozen=True, array_like=True):
    """What the hosts stage has let through of one host to one vms partition, and so what the claims should hold."""

    vms: int
    """VMs on the host's list."""
    digest: int
    """Sum of the low 64 bits of the raw fingerprints of their facets, as they last travelled."""


class ReportObservations(msgspec.Struct, frozen=True, array_like=True):
    """All that one input record of `host.reports` means for one vms partition.

    For an observation whose evidence is a tick (silence), `offset`, `appended_at` and `seq` are the tick's, boot and
    epoch the last known ones. A record that is too large for one message is split over several of these, all with its
    offset: each VM in one of them, inventory and host observations in the last.
    """

    offset: int
    """Position in host.reports (with the batch's `source` partition and `log`)."""
    appended_at: int
    """Log-append time of the input record, whole microseconds in ns."""
    observed_at: int
    """The agent's wall clock; shown, never compared."""
    host_id: HostId
    boot_id: BootId
    agent_epoch: AgentEpoch
    seq: int
    vms: list[VmObservation] = []
    inventory: list[VmId] | None = None
    """This partition's share of a snapshot's complete inventory (may be empty)."""
    host: list[HostObservation] = []
    force: bool = False
    """Part of a snapshot asked with force: what is equal is looked at all the same."""
    facet_sum: FacetSum | None = None
    """With a tick as evidence, once an hour."""
    answers: list[RequestId] | None = None
    """With the inventory of a whole snapshot: the requests that it answers, if any."""


UNCHAINED = -2
"""`since` of a batch that says nothing of what was before it (version 1.0)."""


class ObservationBatch(Record, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """Clock reading and evidence of one hosts partition; `reports` may be empty (the clock alone)."""

    SCHEMA: ClassVar[SchemaVersion] = SchemaVersion(record="ObservationBatch", major=1, minor=1)

    source: int
    """Partition of host.reports."""
    log: int
    """Generation of the host.reports topic, raised when it was re-created."""
    tick: int
    """Number of the newest tick that counted when this batch was sealed."""
    tick_at: int
    """Its log-append time, ns."""
    rules_version: int
    reports: list[ReportObservations] = []
    since: int = UNCHAINED
    """Everything up to this offset of host.reports that concerns this partition was sent before; -1: all there is."""
    until: int = UNCHAINED
    """Everything up to this offset was sent with this batch or before it."""
