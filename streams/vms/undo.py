"""What a partition was at one moment, to go back to when applying an input went wrong half way.

Taking one costs a shallow copy of everything the partition holds, so it is done only for an input that failed before.
VMs, of which there may be a million, are copied when a turn opens them: rules open a VM before they touch it.
"""

from copy import deepcopy
from typing import Any

from schemas.ids import HostId, VmId
from streams.vms.state import Claim, Host, Partition, Vm
from streams.vms.turn import Turn

_KEPT_APART = frozenset({"hosts"})
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
    """The partition as it was when this was made, for as long as every VM that is touched is told to `keep`."""

    def __init__(self, state: Partition) -> None:
        self._state = state
        self._fields = {name: _copied(value) for name, value in vars(state).items() if name not in _KEPT_APART}
        self._hosts: dict[HostId, tuple[Host, _Slots]] = {
            host_id: (host, [_copied(getattr(host, name)) for name in Host.__slots__])
            for host_id, host in state.hosts.items()
        }
        self._vms: dict[VmId, VmCopy] = {}

    def keep(self, vm: Vm) -> None:
        """Remember this VM before it is touched."""
        if vm.id not in self._vms:
            self._vms[vm.id] = VmCopy(vm)

    def restore(self) -> None:
        """Make everything what it was. Once."""
        vars(self._state).update(self._fields)
        self._state.hosts = {}
        for host_id, (host, values) in self._hosts.items():
            _set(host, values)
            self._state.hosts[host_id] = host
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
    return value.copy() if isinstance(value, dict | list | set) else deepcopy(value)


def _slots(held: Vm | Claim) -> _Slots:
    return [getattr(held, name) for name in type(held).__slots__]


def _set(held: Vm | Claim | Host, values: _Slots) -> None:
    for name, value in zip(type(held).__slots__, values, strict=True):
        setattr(held, name, value)
