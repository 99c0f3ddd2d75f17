"""A mapping that can be put back to what it was, at a cost in proportion to what is looked up, not to what it holds."""

from collections.abc import Callable, Iterator, MutableMapping
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Journal(MutableMapping[K, V], Generic[K, V]):
    """Stands before a mapping, writes through, and remembers what stood under each key that was set or deleted."""

    __slots__ = ("_before", "_on_read", "held")

    def __init__(self, held: MutableMapping[K, V], on_read: Callable[[V], None] | None = None) -> None:
        """`on_read` hears of each value before it is handed out, and so before anybody can change it."""
        self.held = held
        self._on_read = on_read
        self._before: dict[K, V | None] = {}

    def put_back(self) -> None:
        """Make the mapping behind this what it was; what was deleted comes last now."""
        for key, before in self._before.items():
            if before is None:
                self.held.pop(key, None)
            else:
                self.held[key] = before
        self._before = {}

    def __getitem__(self, key: K) -> V:
        value = self.held[key]
        if self._on_read is not None:
            self._on_read(value)
        return value

    def __setitem__(self, key: K, value: V) -> None:
        self._before.setdefault(key, self.held.get(key))
        self.held[key] = value

    def __delitem__(self, key: K) -> None:
        self._before.setdefault(key, self.held.get(key))
        del self.held[key]

    def __contains__(self, key: object) -> bool:
        return key in self.held

    def __iter__(self) -> Iterator[K]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)
