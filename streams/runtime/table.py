"""The Faust table behind a stage: its rows are partition cores, its log is loaded by us, not by Faust's recovery.

Faust assigns the table's partitions with the input's and asks the store what it has; the answer is "all of it", so its
own recovery has nothing to replay. The cores are loaded when Faust calls recovery complete: the streams are still
paused then, and the heartbeats run, which they do not inside the assignment callback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from faust.stores import memory
from faust.tables.manager import TableManager
from faust.tables.table import Table
from faust.types import TP

from streams.runtime.ownership import Ownership


class CoreStore(memory.Store):  # type: ignore[misc]
    """Holds no rows; tells Faust what it wants to hear and `Ownership` what Faust decided."""

    ownership: Ownership
    """Set by the table that makes the store."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._last_rows: dict[int, int] = {}
        self.foreign_rows = 0
        """Rows that appeared between our look at the log's end and Faust's: written by a former owner, late."""

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        """A generation of the group was formed; Faust looks at `persisted_offset` next."""
        ours = {tp for tp in assigned if tp.topic == self.table.changelog_topic_name}
        await self.ownership.assign({tp.partition for tp in ours}, generation_id)
        ends = await self.app.consumer.highwaters(*ours) if ours else {}
        self._last_rows = {tp.partition: (end or 0) - 1 for tp, end in ends.items()}

    def persisted_offset(self, tp: TP) -> int | None:
        """Offset of the last row in the log, None for an empty one: nothing is left for Faust to replay."""
        last = self._last_rows.get(tp.partition, -1)
        return last if last >= 0 else None

    def apply_changelog_batch(
        self, batch: Iterable[Any], to_key: Callable[[Any], Any], to_value: Callable[[Any], Any]
    ) -> None:
        """Rows Faust replayed all the same; our own load reads them again."""
        self.foreign_rows += sum(1 for _ in batch)

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        """Load the cores; the inputs start when this returns."""
        await self.ownership.load({tp.partition for tp in active_tps})
        if active_tps and self.ownership.settled:
            # Faust seeks after it resumed the partitions: what was fetched before would come first.
            await self.app.consumer.perform_seek()


class CoreTable(Table):  # type: ignore[misc]
    """A table whose log has the name we give it."""

    def __init__(self, app: Any, *, log_topic: str, ownership: Ownership, **options: Any) -> None:
        self._log_topic = log_topic
        self._ownership = ownership
        super().__init__(app, **options)

    def _changelog_topic_name(self) -> str:
        return self._log_topic

    def _new_store(self) -> CoreStore:
        store = CoreStore(
            "memory://",
            self.app,
            self,
            table_name=self.name,
            key_type=self.key_type,
            key_serializer=self.key_serializer,
            value_serializer=self.value_serializer,
            value_type=self.value_type,
            loop=self.loop,
            options=self.options,
        )
        store.ownership = self._ownership
        return store


class CoreTableManager(TableManager):  # type: ignore[misc]
    """Faust's, without the second that it sleeps at its start in case more tables are declared: there is one."""

    async def on_start(self) -> None:
        """Look at the tables, and begin to recover them."""
        await self._update_channels()
        await self.recovery.start()
