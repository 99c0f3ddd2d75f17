"""Hourly sums: what the vms stage should hold of each host, said to every vms partition (design §4 "Repair paths").

Each host has its second of the hour, so the work is spread and a million VMs cost about a second of CPU per hour. When
it is due follows from the number of the tick alone: a replay says the same sums at the same places.
"""

from collections.abc import Iterable

import xxhash

from schemas.fingerprints import U64
from schemas.host_rows import HostRow, Silence
from schemas.ids import HostId
from schemas.observation import FacetSum
from streams.hosts.state import Host


class SumCalendar:
    """Which hosts are due at a tick."""

    def __init__(self, period_ticks: int, hosts: Iterable[HostId]) -> None:
        self._period_ticks = period_ticks
        self._hosts: dict[int, list[HostId]] = {}
        for host_id in hosts:
            self.add(host_id)

    def add(self, host_id: HostId) -> None:
        """Give a host its place."""
        place = xxhash.xxh3_64_intdigest(host_id) % self._period_ticks
        self._hosts.setdefault(place, []).append(host_id)

    def due(self, tick: int) -> list[HostId]:
        """Hosts of this tick, in order of their ids."""
        found = self._hosts.get(tick % self._period_ticks)
        return sorted(found) if found else []


def can_be_summed(row: HostRow) -> bool:
    """Not while what is said of it does not count (rule H3), nor while nobody could answer."""
    return row.silence is Silence.HEARD and row.conflict is None


def sums_of(host: Host, partitions: int) -> list[FacetSum]:
    """By vms partition: number of VMs, and sum of the fingerprints of what travelled."""
    vms, digests = [0] * partitions, [0] * partitions
    for marks in host.vms.values():
        vms[marks.partition] += 1
        digests[marks.partition] += marks.travelled()
    return [FacetSum(count, digest & U64) for count, digest in zip(vms, digests, strict=True)]
