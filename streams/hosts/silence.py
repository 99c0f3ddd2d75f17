"""Who is due: hosts not heard for their grace, and those whose source is away for too long (rules H1, H5, H6).

A heap holds one live entry per heard host. A report does not touch it: an entry that comes up too early goes back
with its new due tick, so a thousand hosts cost a few dozen heap operations a second.
"""

from collections.abc import Iterable
from heapq import heappop, heappush

from schemas.host_rows import Silence
from streams.hosts.policy import HostsPolicy
from streams.hosts.state import NEVER, Host


class SilenceWatch:
    """Finds due hosts tick by tick. Everything it knows follows from the rows and the restart tick."""

    def __init__(self, policy: HostsPolicy) -> None:
        self._policy = policy
        self._heap: list[tuple[int, bytes]] = []
        self._hosts: dict[bytes, Host] = {}

    def silent_tick(self, host: Host, restart_tick: int) -> int:
        """When this host is silent if nothing more is heard."""
        return self._counted_from(host, restart_tick) + host.grace_ticks

    def degraded_tick(self, host: Host) -> int:
        """When this host is degraded if its source stays away."""
        row = host.row
        if row.disconnected_tick is None or row.degraded:
            return NEVER
        return row.disconnected_tick + self._policy.degraded_ticks

    def watch(self, host: Host, restart_tick: int) -> None:
        """See that the host comes up in time; called when it is heard. Usually two comparisons."""
        row = host.row
        if row.silence is not Silence.HEARD:
            return
        if row.vm_count != host.graced_vms:
            host.graced_vms = row.vm_count
            host.grace_ticks = self._policy.grace_ticks(row.vm_count)
        due = self.silent_tick(host, restart_tick)
        if row.disconnected_tick is not None:
            due = min(due, self.degraded_tick(host))
        if due < host.due_tick:
            self._push(host, due)

    def due(self, tick: int, restart_tick: int) -> list[Host]:
        """Heard hosts that are silent or degraded as of this tick, in order of their ids."""
        found: list[Host] = []
        while self._heap and self._heap[0][0] <= tick:
            queued, host_id = heappop(self._heap)
            host = self._hosts[host_id]
            if queued != host.due_tick:
                continue
            host.due_tick = NEVER
            if host.row.silence is not Silence.HEARD:
                continue
            due = min(self.silent_tick(host, restart_tick), self.degraded_tick(host))
            if due <= tick:
                found.append(host)
            else:
                self._push(host, due)
        return sorted(found, key=lambda host: host.host_id)

    def is_mass(self, hosts: Iterable[Host], tick: int, restart_tick: int) -> bool:
        """True when more than a quarter of the hosts that were heard of late, and at least five, fall together.

        "Together" is within the window: agents report every few seconds and graces differ, so hosts cut off by one
        switch do not fall due at one tick.
        """
        policy = self._policy
        unheard_since = tick - max(1, policy.grace_base_ticks - policy.mass_window_ticks)
        falling = living = 0
        for host in hosts:
            silent = host.row.silence is not Silence.HEARD
            if silent and host.row.silent_tick <= tick - policy.mass_window_ticks:
                continue
            living += 1
            falling += silent or self._counted_from(host, restart_tick) <= unheard_since
        return falling >= policy.mass_hosts and 4 * falling > living

    def _counted_from(self, host: Host, restart_tick: int) -> int:
        return max(host.row.heard_tick, restart_tick + self._policy.restart_extra_ticks if restart_tick else 0)

    def _push(self, host: Host, due: int) -> None:
        host.due_tick = due
        self._hosts[host.host_id] = host
        heappush(self._heap, (due, host.host_id))
