"""VmHead and VmFacet: the rows of `vm.state`, which is both a public topic and the vms stage's table.

Keys: `<vm_id>` -> VmHead, `<vm_id>/<host_id>/<facet>` -> VmFacet, `#...` -> bookkeeping of the stage (readers skip
it). Facet rows are written before the head that lists them; a facet row above its head is held back by readers.
All rows are ordered by (incarnation, version, applied).
"""

from typing import Any, ClassVar

import msgspec

from schemas.change import Availability, Exit
from schemas.codec import Record, SchemaVersion
from schemas.status import ExitReason, PauseReason, Status


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
    """Its claim was `migrating_to` in this run."""
    lost: bool = False
    """It lost this run to another host by adoption."""


class Timer(msgspec.Struct, frozen=True, array_like=True):
    """A duration under way: `kind` names the rule, due at a tick count or at a time of the stage's clock."""

    kind: str
    due_tick: int | None = None
    due_time: int | None = None


class VmHead(Record, frozen=True, kw_only=True, omit_defaults=True):
    """Everything about a VM but its facets' bytes; the newest version of each VM stays in the compacted topic."""

    SCHEMA: ClassVar[SchemaVersion] = SchemaVersion(record="VmHead", major=1, minor=0)
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
    """Offset of the last vm.observations record applied to this VM."""
    claims: list[Claim] = []
    facets: dict[str, bytes] = {}
    """The VM's own facets (its owner's, after the rules of domain §9): name -> normalised fingerprint."""
    managed: dict[str, Any] = {}
    intents: list[dict[str, Any]] = []
    timers: list[Timer] = []


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
