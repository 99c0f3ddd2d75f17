"""One input's turn: what it is about, and what it has to say to the vms partitions so far."""

from typing import NamedTuple

from schemas.host_rows import HostRow
from schemas.ids import RequestId, VmId
from schemas.observation import FacetSum, HostEvent, HostObservation, VmObservation
from schemas.report import HostReport, SnapshotPart
from streams.hosts.state import Host

VM_BYTES = 32
FACET_BYTES = 24
"""What a VM and each of its facets add to a message besides the facet's bytes, rather too much than too little."""


class Moment(NamedTuple):
    """Evidence of one turn: a report's, or a tick's."""

    offset: int
    appended_at: int
    """Log-append time, ns."""
    observed_at: int
    """The agent's clock; the append time where no agent spoke."""
    seq: int
    """Of the report, or the number of the tick."""
    tick: int
    """Number of the newest tick that counted."""
    reported: bool
    """False when the evidence is a tick or a gap."""


class Turn:
    """What one input says about one host. `vms` and `inventory` are by vms partition."""

    __slots__ = (
        "answers",
        "events",
        "force",
        "host",
        "inventory",
        "lost",
        "moment",
        "row",
        "sizes",
        "sums",
        "touched",
        "vms",
    )

    def __init__(self, host: Host, moment: Moment) -> None:
        self.host = host
        self.row: HostRow = host.row
        self.moment = moment
        self.vms: dict[int, list[VmObservation]] = {}
        self.sizes: dict[int, int] = {}
        """Estimated bytes of what is said to each vms partition."""
        self.inventory: dict[int, list[VmId]] | None = None
        self.answers: list[RequestId] | None = None
        """Requests that the whole snapshot ended by this input answers."""
        self.sums: list[FacetSum] | None = None
        """By vms partition."""
        self.events: list[HostObservation] = []
        self.force = False
        self.touched = False
        """Something public may have changed."""
        self.lost = False
        """Evidence of this host was lost: a change of its own, also when nothing else differs."""

    def say(self, event: HostEvent, *, mass: bool = False) -> None:
        """State something about the host itself to every vms partition."""
        self.events.append(HostObservation(event, mass))
        self.touched = True

    def observe(self, partition: int, observation: VmObservation, facet_bytes: int = 0) -> None:
        """State something about a VM to its partition."""
        size = VM_BYTES + FACET_BYTES * len(observation.facets) + facet_bytes
        if (known := self.vms.get(partition)) is not None:
            known.append(observation)
            self.sizes[partition] += size
        else:
            self.vms[partition] = [observation]
            self.sizes[partition] = size


def starts_snapshot(report: HostReport) -> bool:
    """True for part 1 of a snapshot: what a new epoch begins with."""
    return isinstance(report.body, SnapshotPart) and report.body.part == 1
