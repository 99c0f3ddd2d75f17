"""What a partition of the vms stage holds in memory: one `Vm` per VM with its claims, one `Host` per host.

Made for a million VMs per process: slots, ids as 16 bytes, facets packed into one bytes object each (`facets`).
The public form of a row is `schemas.vm_state.VmHead`; `rows` converts.
"""

from collections import Counter
from collections.abc import Iterator, MutableMapping
from typing import Any

from schemas.change import Exit
from schemas.ids import BootId, HostId, RunId, VmId, uuid_text
from schemas.status import ALIVE, Doubt, ExitReason, GoneReason, PauseReason, Reachability, Status
from schemas.vm_state import Pending, Timer
from streams.runtime.stage import Output
from streams.vms.clock import Clock
from streams.vms.facets import NO_FACETS, PackedFacets, Prints
from streams.vms.intent_log import IntentLog
from streams.vms.requests import Bucket, Repair
from streams.vms.timers import TimerQueue

NO_DOUBT: tuple[Doubt, ...] = ()


class Claim:
    """The last evidence of one host about one VM; fields as in `schemas.vm_state.Claim`."""

    __slots__ = (
        "appended_at",
        "boot",
        "borrowed",
        "conflict",
        "ended",
        "exit_reason",
        "facets",
        "grace",
        "host",
        "incoming",
        "log",
        "lost",
        "offset",
        "pause_reason",
        "peer",
        "phase",
        "process_id",
        "reason",
        "seen",
        "status",
    )

    def __init__(self, host: HostId, boot: BootId) -> None:
        self.host = host
        self.boot = boot
        self.log = 0
        self.offset = -1
        self.appended_at = 0
        self.status: Status | None = None
        self.reason: str | None = None
        self.pause_reason: PauseReason | None = None
        self.process_id: str | None = None
        self.exit_reason: ExitReason | None = None
        self.peer: str | None = None
        self.phase: str | None = None
        self.facets: PackedFacets = NO_FACETS
        self.ended = False
        self.incoming = False
        self.lost = False
        self.grace = False
        self.conflict = False
        self.borrowed = False
        self.seen = 0

    @property
    def alive(self) -> bool:
        """The host says that a process of this VM exists."""
        return not self.ended and self.status in ALIVE

    @property
    def position(self) -> tuple[int, int]:
        return self.log, self.offset


class Vm:
    """One VM; what changes in `status` … `facets of the owner` is published, the rest is bookkeeping."""

    __slots__ = (
        "applied",
        "claims",
        "detected_at",
        "digest",
        "epoch",
        "exit",
        "gone",
        "id",
        "incarnation",
        "intents",
        "managed",
        "observed_at",
        "out_seen",
        "owned_seen",
        "owner",
        "pending",
        "quarantined",
        "run_id",
        "shown",
        "since",
        "status",
        "timers",
        "version",
    )

    def __init__(self, vm_id: VmId, incarnation: int) -> None:
        self.id = vm_id
        self.incarnation = incarnation
        self.version = 0
        self.status = Status.DOWN
        self.shown = NO_DOUBT
        """Doubts as published, in the order in which they are shown."""
        self.since = 0
        self.owner: HostId | None = None
        self.epoch = 0
        self.run_id: RunId | None = None
        self.exit: Exit | None = None
        self.observed_at = 0
        self.detected_at = 0
        self.digest = 0
        self.applied = -1
        self.claims: list[Claim] = []
        self.managed: dict[str, Any] | None = None
        self.intents: list[dict[str, Any]] | None = None
        self.timers: tuple[Timer, ...] = ()
        self.pending: Pending | None = None
        self.gone: GoneReason | None = None
        self.out_seen = 0
        self.owned_seen = 0
        self.quarantined = False

    @property
    def alive(self) -> bool:
        return self.status in ALIVE

    @property
    def owner_claim(self) -> Claim | None:
        owner = self.owner
        for claim in self.claims:
            if claim.host == owner:
                return claim
        return None

    def claim_of(self, host: HostId) -> Claim | None:
        """The claim of this host; VMs have one or two claims, so a list is searched."""
        for claim in self.claims:
            if claim.host == host:
                return claim
        return None

    def rivals(self) -> list[Claim]:
        """Alive claims of hosts that are not the owner."""
        return [claim for claim in self.claims if claim.host != self.owner and claim.alive]


class Host:
    """What this partition knows of a host."""

    __slots__ = (
        "applied",
        "boot",
        "claims",
        "confirmed",
        "confirmed_tick",
        "heard",
        "id",
        "late",
        "position",
        "reachability",
        "reasons",
        "repair",
        "repair_asked",
        "source",
        "text",
        "unequal",
    )

    def __init__(self, host_id: HostId, source: int, boot: BootId) -> None:
        self.id = host_id
        self.text = uuid_text(host_id)
        self.source = source
        """Partition of host.reports that carries its reports."""
        self.boot = boot
        self.reachability = Reachability.UP
        self.reasons: frozenset[Doubt] = frozenset()
        """Why its VMs are not known; each removed by its own end (H2b)."""
        self.confirmed = False
        self.confirmed_tick = 0
        self.position = (0, -1)
        """Of the last host observation or inventory; what is at or below it is a repeat."""
        self.heard = (0, -1)
        """Of the last report that had an effect; what is below it is a repeat."""
        self.late = False
        """It said something late and was not heard in time since (O6)."""
        self.repair_asked = False
        self.repair: Repair | None = None
        """The need for a forced snapshot that is open."""
        self.unequal = 0
        """Hourly sums in a row that differed; at the most it is flagged."""
        self.applied = -1
        self.claims: set[VmId] = set()
        """VMs that this host claims (ended claims are not in it)."""


class Partition:
    """Everything of one partition, and what the inputs since the last seal left to write."""

    def __init__(self, number: int, partitions: int) -> None:
        self.number = number
        self.partitions = partitions
        self.topic_id = ""
        """Of vm.observations, as it is now."""
        self.generation = 0
        self.table_start = 0
        """Where the log of vm.state may begin."""
        self.applied = -1
        self.newer_until = 0
        """Inputs below this offset may follow newer rules."""
        self.floor = -1
        """Everything up to here is in the heads already, though the partition row does not say so (a torn batch)."""
        self.torn = -1
        """Some head has everything up to here (a torn batch)."""
        self.vms: MutableMapping[VmId, Vm] = {}
        self.hosts: MutableMapping[HostId, Host] = {}
        self.orphans: dict[HostId, set[VmId]] = {}
        """Claims of hosts that have no row."""
        self.repairs: list[tuple[int, HostId]] = []
        """Heap of open needs by the pulse at which they are due; one that was moved meanwhile is passed over."""
        self.bucket = Bucket()
        self.intents = IntentLog()
        self.late_hosts: set[HostId] = set()
        self.suspects: set[VmId] = set()
        """VMs of which something could not be applied: what comes of them is applied with care (`poison`)."""
        self.clock = Clock(partitions)
        self.timers = TimerQueue()
        self.outputs: list[Output] = []
        self.dirty_heads: dict[VmId, None] = {}
        self.dirty_facets: dict[tuple[VmId, HostId, int], None] = {}
        self.dirty_hosts: dict[HostId, None] = {}
        self.ended_facets: dict[tuple[VmId, HostId, int], None] = {}
        """Rows to delete in the batch after the one under way."""
        self.deletable_facets: dict[tuple[VmId, HostId, int], None] = {}
        """Rows to delete in the batch under way: its predecessor's heads no longer list them."""
        self.fingerprints: dict[VmId, Prints] = {}
        """Of what was published since the last seal, so that the head need not collect them again."""
        self.counts: Counter[tuple[str, tuple[str, ...]]] = Counter()

    def count(self, metric: str, *labels: str, amount: int = 1) -> None:
        self.counts[(metric, labels)] += amount

    def host(self, host_id: HostId, source: int, boot: BootId) -> Host:
        """The host, made at its first report."""
        host = self.hosts.get(host_id)
        if host is None:
            host = self.hosts[host_id] = Host(host_id, source, boot)
            host.claims = self.orphans.pop(host_id, host.claims)
            self.dirty_hosts[host_id] = None
        return host

    def set_late(self, host: Host, *, late: bool) -> None:
        if host.late is not late:
            host.late = late
            self.dirty_hosts[host.id] = None
            (self.late_hosts.add if late else self.late_hosts.discard)(host.id)

    def reachable(self, host_id: HostId) -> bool:
        """Its word is current: it is heard, and its partition is read."""
        host = self.hosts.get(host_id)
        return host is not None and host.reachability is Reachability.UP and not self.clock.left_out(host.source)

    def doubts_of_host(self, host_id: HostId) -> frozenset[Doubt]:
        host = self.hosts.get(host_id)
        if host is None:
            return frozenset((Doubt.HOST_SILENT,))
        return host.reasons | {Doubt.UNREAD} if self.clock.left_out(host.source) else host.reasons

    def claimed(self, host: Host) -> Iterator[Vm]:
        """VMs that this host claims, in the order of their ids, so that a replay comes in the same order."""
        for vm_id in sorted(host.claims):
            yield self.vms[vm_id]

    def add_claim(self, vm: Vm, claim: Claim) -> None:
        vm.claims.append(claim)
        self.list_claim(vm, claim)

    def list_claim(self, vm: Vm, claim: Claim) -> None:
        """The host lists this VM (again)."""
        claim.ended = False
        host = self.hosts.get(claim.host)
        if host is not None:
            host.claims.add(vm.id)

    def unlist_claim(self, vm: Vm, claim: Claim) -> None:
        """The VM left the host's list; the claim stays for as long as it is the owner's last word."""
        claim.ended = True
        host = self.hosts.get(claim.host)
        if host is not None:
            host.claims.discard(vm.id)

    def drop_claim(self, vm: Vm, claim: Claim) -> None:
        """Forget the claim and, one batch later, its facet rows."""
        self.unlist_claim(vm, claim)
        self.set_facets(vm, claim, NO_FACETS)
        vm.claims.remove(claim)

    def set_facets(self, vm: Vm, claim: Claim, facets: PackedFacets) -> None:
        """Replace a claim's facets; rows of those that are no more are deleted one batch later."""
        for slot, (before, after) in enumerate(zip(claim.facets, facets, strict=True)):
            if before is not None and after is None:
                self.ended_facets[(vm.id, claim.host, slot)] = None
        claim.facets = facets

    def arm(self, vm: Vm, kind: str, *, due_tick: int | None = None, due_time: int | None = None) -> None:
        """Start this timer of the VM, or move it."""
        timer = Timer(kind, due_tick, due_time)
        vm.timers = (*(other for other in vm.timers if other.kind != kind), timer)
        self.timers.push(vm.id, timer)
        self.dirty_heads[vm.id] = None

    def disarm(self, vm: Vm, *kinds: str) -> None:
        """Stop these timers of the VM, if they run."""
        if vm.timers and any(timer.kind in kinds for timer in vm.timers):
            vm.timers = tuple(timer for timer in vm.timers if timer.kind not in kinds)
            self.dirty_heads[vm.id] = None
