"""One assigned partition as the running worker sees it: its core, the next offset, and what was counted."""

from __future__ import annotations

import asyncio

from streams.runtime.continuity import InputBounds
from streams.runtime.stage import PartitionCore
from streams.runtime.trials import Trial


class Lane:
    """Owned by the event loop; other threads only read its numbers. One per partition and unbroken ownership."""

    __slots__ = ("bounds", "core", "mending", "moved_at", "next_offset", "partition", "trial")

    def __init__(
        self,
        partition: int,
        core: PartitionCore,
        next_offset: int,
        bounds: InputBounds,
        now: float,
        trial: Trial | None = None,
    ) -> None:
        self.partition = partition
        self.core = core
        self.next_offset = next_offset
        """Offset of the input to apply next."""
        self.bounds = bounds
        """The input log as it was at the last assignment."""
        self.moved_at = now
        """Monotonic seconds at which progress was last seen."""
        self.trial = trial
        """The attempt to apply the next input; None once it is known to go well."""
        self.mending: asyncio.Event | None = None
        """Set when the core is whole again; None while it is."""

    @property
    def caught_up(self) -> bool:
        """True once everything that was in the log at the assignment has been applied."""
        return self.next_offset >= self.bounds.end


Lanes = dict[int, Lane]
"""By partition number."""
