"""What a partition of the hosts stage was at one moment, to go back to when an input went wrong half way.

Copies the helpers of the core whole, and of the hosts those that the input can touch.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from streams.hosts.state import Host

if TYPE_CHECKING:
    from streams.hosts.core import HostsCore

_NEVER_CHANGE = frozenset({"_config", "_policy"})
_FINAL = (int, str, bytes, frozenset, tuple, type(None))

_Fields = dict[str, Any]


class Undo:
    """The core as it was when this was made; `restore` may be called once."""

    def __init__(self, core: HostsCore, touched: Iterable[Host]) -> None:
        self._core = core
        self._fields: _Fields = {}
        self._helpers: list[tuple[Any, _Fields]] = []
        for name, value in vars(core).items():
            if name in _NEVER_CHANGE:
                continue
            if isinstance(value, (*_FINAL, dict, list, set)):
                self._fields[name] = _copied(value)
            else:
                self._helpers.append((value, {field: _copied(held) for field, held in _fields_of(value).items()}))
        self._hosts = [(host, {name: _of_host(host, name) for name in Host.__slots__}) for host in touched]

    def restore(self) -> None:
        """Make everything what it was; the objects stay the same."""
        vars(self._core).update(self._fields)
        for helper, fields in self._helpers:
            for name, value in fields.items():
                setattr(helper, name, value)
        for host, fields in self._hosts:
            for name, value in fields.items():
                setattr(host, name, value)


def _fields_of(helper: Any) -> _Fields:
    names = getattr(type(helper), "__slots__", None)
    return vars(helper) if names is None else {name: getattr(helper, name) for name in names}


def _copied(value: Any) -> Any:
    """A copy that shares hosts and records with the original, but no container."""
    if isinstance(value, dict):
        return {key: _copied(held) for key, held in value.items()}
    if isinstance(value, list):
        return [held if isinstance(held, _FINAL) else _copied(held) for held in value]
    return value.copy() if isinstance(value, set) else value


def _of_host(host: Host, name: str) -> Any:
    value = getattr(host, name)
    # The row is worked on in place, down to its lists; marks of VMs are replaced, never changed.
    return deepcopy(value) if name == "row" else dict(value) if isinstance(value, dict) else value
