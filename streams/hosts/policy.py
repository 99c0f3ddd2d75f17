"""The numbers that the rules of the hosts stage use."""

from dataclasses import dataclass
from math import ceil

SECOND_NS = 1_000_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class HostsPolicy:
    """Defaults are those of the rule book. One tick is one second of the log's own time."""

    grace_base_ticks: int = 20
    grace_ticks_per_vm: float = 0.02
    grace_max_ticks: int = 120
    """A host is silent after base + per VM, at most this; three missed heartbeats of 5 s must fit into the base."""
    restart_extra_ticks: int = 30
    """Given to all hosts when the ticks stood still or another worker makes them: agents return one by one."""
    tick_gap_ns: int = 5 * SECOND_NS
    """Ticks further apart than this mean that the broker or we were away, not the hosts."""
    tick_spacing_ns: int = SECOND_NS * 9 // 10
    """Ticks closer than this do not count, so that a burst of them can not make anybody look silent."""
    mass_hosts: int = 5
    mass_window_ticks: int = 10
    """Hosts that fell silent, or are about to, within this many ticks fall together."""
    degraded_ticks: int = 60
    shown_ticks: int = 60
    """host.state follows `last_report_at` at most this often."""
    forward_ticks: int = 5
    """The clock goes alone to a vms partition only when it heard nothing for this long."""
    snapshot_ticks: int = 60
    """A snapshot without a new part for this long is given up."""
    stale_ns: int = 5 * SECOND_NS
    """Reports of a replaced epoch may have been under way for so long; later ones come from a second agent."""
    stale_reports: int = 2
    retired_ns: int = 600 * SECOND_NS
    retired_least: int = 16
    retired_most: int = 256
    skew_ns: int = 5 * SECOND_NS
    skew_reports: int = 3
    """So many in a row: one report that was delayed on its way says nothing about a clock."""
    ask_first_ticks: int = 10
    ask_most_ticks: int = 600
    equal_failures: int = 3
    bucket_tokens: int = 20
    tokens_per_tick: int = 2
    """Requests for snapshots per partition: a burst, then so many a second."""

    sum_ticks: int = 3_600
    """How often the vms stage is told what it should hold of a host."""

    def grace_ticks(self, vms: int) -> int:
        """Ticks after which a host with so many VMs is silent (rule H1)."""
        return min(self.grace_base_ticks + ceil(self.grace_ticks_per_vm * vms), self.grace_max_ticks)
