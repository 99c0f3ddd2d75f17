"""VmHead and VmFacet: the rows of `vm.state`, which is both a public topic and the vms stage's table.

Keys: `<vm_id>` -> VmHead, `<vm_id>/<host_id>/<facet>` -> VmFacet, `#...` -> bookkeeping of the stage (readers skip
it). Facet rows are written before the head that lists them; a facet row above its head is held back by readers.
All rows are ordered by (incarnation, version, applied).
"""

from enum import StrEnum
from typing import Any, ClassVar

import msgspec

from schemas.change import Availability, Exit
from schemas.codec import Record, SchemaVersion
from schemas.members import at_hand
from schemas.status import ExitReason, GoneReason, PauseReason, Status


class Position(msgspec.Struct, frozen=True, array_like=True, order=True):
    """Place of evidence in host.reports: ordered within one host, never between hosts."""

    log: int
    offset: int


class FacetMark(msgspec.Struct, frozen=True, array_like=True):
    """What a claim remembers of a facet: low 64 bits of the raw fingerprint (for sums), normalised 128 (for change)."""

    raw: int
    normal: bytes
    rejected: bool = False


class Claim(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The last evidence of one host about one VM."""

    host_id: str
    position: Position
    appended_at: int
    boot_id: str
    status: Status | None = None
    """The host's word; None until a `run` facet was readable."""
    reason: str | None = None
    pause_reason: PauseReason | None = None
    process_id: str | None = None
    exit_reason: ExitReason | None = None
    peer: str | None = None
    """The other side of a migration, where the host names it."""
    phase: str | None = None
    facets: dict[str, FacetMark] = {}
    ended: bool = False
    """The VM left the host's list (gone, absent, fenced); kept while it is the owner's last word."""
    incoming: bool = False
    """It was `migrating_to` in this run, or its first evidence said that it was migrated here."""
    lost: bool = False
    """It lost this run to another host and has not ended since."""
    grace: bool = False
    """It handed over less than 60 ticks ago and has not ended yet (rule O1)."""
    conflict: bool = False
    """It runs beside the owner's without a migration (rule O5)."""
    borrowed: bool = False
    """The host itself has said nothing yet: its facets are those of the owner that migrated the VM to it."""
    seen: int = 0
    """Place in vm.observations of its last evidence, to order the claims of different hosts among themselves."""


@at_hand
class PendingKind(StrEnum):
    """What an alive VM waits for before its end is believed."""

    ABSENCE = "absence"
    """It left its owner's list without a reason: lost, unless another host has it (design §5)."""
    NO_EXIT = "no_exit"
    """Its owner says that it is down, without saying how it ended (rule S1)."""
    BOOT = "boot"
    """Its host booted (rule S3)."""
    HANDING_OVER = "handing_over"
    """Its source ended, its destination was not heard yet (rule O2)."""
    MIGRATED_AWAY = "migrated_away"
    """As before, and nobody claimed it within 60 ticks."""


class Pending(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The end that will be believed when nothing contradicts it in time."""

    kind: PendingKind
    appended_at: int
    """Log-append time of the evidence (ns); the clock must have passed it by 10 s before the VM may be down."""
    exit: Exit
    migrated: bool = False
    gone: GoneReason | None = None


class Timer(msgspec.Struct, frozen=True, array_like=True):
    """A duration under way: `kind` names the rule, due at a tick count or at a time of the stage's clock."""

    kind: str
    due_tick: int | None = None
    due_time: int | None = None


class VmHead(Record, frozen=True, kw_only=True, omit_defaults=True):
    """Everything about a VM but its facets' bytes; the newest version of each VM stays in the compacted topic."""

    SCHEMA: ClassVar[SchemaVersion] = SchemaVersion(record="VmHead", major=1, minor=1)
    PUBLIC: ClassVar[bool] = True

    vm_id: str
    incarnation: int
    version: int
    status: Status
    availability: Availability
    host_id: str | None = None
    """Owner."""
    ownership_epoch: int = 0
    run_id: str | None = None
    exit: Exit | None = None
    observed_at: int = 0
    detected_at: int = 0
    digest: int = 0
    applied: int = 0
    """All vm.observations up to here are applied to this VM: generation of that topic << 40 | offset."""
    claims: list[Claim] = []
    facets: dict[str, bytes] = {}
    """The VM's own facets (its owner's, after rules §9): name -> normalised fingerprint."""
    managed: dict[str, Any] = {}
    intents: list[dict[str, Any]] = []
    timers: list[Timer] = []
    pending: Pending | None = None
    gone: GoneReason | None = None
    """Why the last claim ended, on a VM that nobody lists any more (rule O9)."""
    out_seen: int = 0
    """Place in vm.observations at which the owner began to migrate it away; 0 when it did not."""
    owned_seen: int = 0
    """Place in vm.observations of the last change of owner."""
    quarantined: bool = False
    """Evidence about it could not be applied and is in dead.letters; ends with the owner's next complete word."""


class VmFacet(Record, frozen=True, kw_only=True):
    """One facet of one VM as one host last said it; `value` is the canonical facet map."""

    SCHEMA: ClassVar[SchemaVersion] = SchemaVersion(record="VmFacet", major=1, minor=0)
    PUBLIC: ClassVar[bool] = True

    incarnation: int
    version: int
    """Version of the head that this row belongs to."""
    applied: int
    fingerprint: bytes
    value: bytes
