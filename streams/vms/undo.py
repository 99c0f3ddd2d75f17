"""What a partition was at one moment, to go back to when applying an input went wrong half way.

A suspect may be spoken of all the time, so this costs in proportion to what an input touches: VMs, of which there may
be a million, are copied when a turn opens them (rules open a VM before they touch it), hosts with their lists of claims
when they are looked up. The rest is small, but for the timers, whose heaps are copied as they are.
"""

from copy import deepcopy
from typing import Any

from schemas.ids import HostId, VmId
from streams.vms.journal import Journal
from streams.vms.state import Claim, Host, Partition, Vm
from streams.vms.timers import TimerQueue
from streams.vms.turn import Turn

_KEPT_APART = frozenset({"hosts", "orphans", "vms"})
_FINAL = (int, str, bytes, frozenset, tuple, type(None))

_Slots = list[Any]


class VmCopy:
    """One VM with its claims as it was when this was made."""

    __slots__ = ("_claims", "_values", "_vm")

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self._values = _slots(vm)
        self._claims = [(claim, _slots(claim)) for claim in vm.claims]

    def restore(self) -> None:
        """Make it what it was; the objects stay the same."""
        _set(self._vm, self._values)
        for claim, values in self._claims:
            _set(claim, values)
        self._vm.claims = [claim for claim, _ in self._claims]


class Undo:
    """The partition as it was when this was made, for as long as every VM that is touched is told to `keep`.

    Watches the partition until `stop` or `restore`.
    """

    def __init__(self, state: Partition) -> None:
        self._state = state
        self._fields = {name: _copied(value) for name, value in vars(state).items() if name not in _KEPT_APART}
        self._orphans = {host_id: claims.copy() for host_id, claims in state.orphans.items()}
        self._hosts: dict[HostId, tuple[Host, _Slots]] = {}
        self._vms: dict[VmId, VmCopy] = {}
        self._host_journal = Journal(state.hosts, self._keep_host)
        self._vm_journal = Journal(state.vms)
        state.hosts, state.vms = self._host_journal, self._vm_journal

    def keep(self, vm: Vm) -> None:
        """Remember this VM before it is touched."""
        if vm.id not in self._vms:
            self._vms[vm.id] = VmCopy(vm)

    def _keep_host(self, host: Host) -> None:
        if host.id not in self._hosts:
            self._hosts[host.id] = host, [_copied(getattr(host, name)) for name in Host.__slots__]

    def stop(self) -> None:
        """Watch no more; what was remembered can still be restored."""
        self._state.hosts, self._state.vms = self._host_journal.held, self._vm_journal.held

    def restore(self) -> None:
        """Make everything what it was. Once."""
        self.stop()
        vars(self._state).update(self._fields)
        self._state.orphans = self._orphans
        self._host_journal.put_back()
        self._vm_journal.put_back()
        for host, values in self._hosts.values():
            _set(host, values)
        for vm in self._vms.values():
            vm.restore()


class Watch:
    """Who is touched while an input is applied, and who must not be."""

    def __init__(self, undo: Undo, excluded: frozenset[VmId]) -> None:
        self.undo = undo
        self.excluded = excluded
        self.touched: dict[VmId, None] = {}
        self.last: VmId | None = None
        """The VM that is worked on."""

    def turn(self, *arguments: Any) -> "WatchedTurn":
        """A turn that tells this watch; arguments as for any turn."""
        turn = WatchedTurn(*arguments)
        turn.watch = self
        return turn


class WatchedTurn(Turn):
    """A turn whose VMs can be put back, and which passes over some."""

    __slots__ = ("watch",)

    watch: Watch

    def open(self, vm: Vm) -> None:
        self.watch.undo.keep(vm)
        self.watch.touched[vm.id] = None
        self.watch.last = vm.id
        super().open(vm)

    def repeats(self, vm: Vm) -> bool:
        return vm.id in self.watch.excluded or super().repeats(vm)


def _copied(value: Any) -> Any:
    if isinstance(value, _FINAL):
        return value
    return value.copy() if isinstance(value, dict | list | set | TimerQueue) else deepcopy(value)


def _slots(held: Vm | Claim) -> _Slots:
    return [getattr(held, name) for name in type(held).__slots__]


def _set(held: Vm | Claim | Host, values: _Slots) -> None:
    for name, value in zip(type(held).__slots__, values, strict=True):
        setattr(held, name, value)
