"""Live migrations of simulated VMs: both sides' statements, in any of the orders in which they can be seen."""

from collections.abc import Sequence
from dataclasses import dataclass

from producers.simulator.fleet import Act, Fleet, Script
from producers.simulator.scripts import step
from schemas.facets.run import Migration
from schemas.ids import uuid_text
from schemas.status import ExitReason, ExitStatus, GoneReason, Status

MIGRATION_ORDERS: dict[str, tuple[str, ...]] = {
    "S1 S2 D1 D2": ("S1", "S2", "D1", "D2"),
    "S1 D1 S2 D2": ("S1", "D1", "S2", "D2"),
    "D1 S1 S2 D2": ("D1", "S1", "S2", "D2"),
    "S1 D1 D2 S2": ("S1", "D1", "D2", "S2"),
    "D1 S1 D2 S2": ("D1", "S1", "D2", "S2"),
    "D1 D2 S1 S2": ("D1", "D2", "S1", "S2"),
    "D2 S2": ("D2", "S2"),
}
"""Orders in which the two sides of one migration are seen (S1 source migrating_from, S2 source ended, D1 destination
migrating_to, D2 destination up). The last one is what is left when each side's two statements are coalesced."""
REAL_ORDER = ("S1", "D1", "D2", "S2")


@dataclass(slots=True)
class _Route:
    """Where a migration goes; the source is known when its first step happens."""

    vm: int
    to: int
    source: int | None = None

    def origin(self, fleet: Fleet) -> int:
        if self.source is None:
            self.source = fleet.vms[self.vm].owner
        return self.source

    def leaving(self, fleet: Fleet) -> None:
        peer = uuid_text(fleet.hosts[self.to].host_id)
        moving = Migration(direction="out", peer=peer, phase="pre_copy")
        fleet.become(self.vm, self.origin(fleet), Status.MIGRATING_FROM, "pre_copy", migration=moving)

    def arriving(self, fleet: Fleet) -> None:
        self.origin(fleet)
        moving = Migration(direction="in", phase="pre_copy")
        fleet.begin(self.vm, self.to, Status.MIGRATING_TO, "incoming", migration=moving)

    def arrived(self, fleet: Fleet) -> None:
        self.origin(fleet)
        run = fleet.run_of(self.vm, self.to)
        fleet.hand_over(self.vm, self.to)
        if run is None or run.status is not Status.MIGRATING_TO:
            fleet.begin(self.vm, self.to, Status.UP, "migrated")
        else:
            fleet.become(self.vm, self.to, Status.UP, "migrated")

    def left_down(self, fleet: Fleet) -> None:
        fleet.end(
            self.vm, self.origin(fleet), Status.DOWN, "migrated", ExitStatus.NORMAL, ExitReason.MIGRATED
        )  # the definition stays on the source

    def left_gone(self, fleet: Fleet) -> None:
        fleet.leave(self.vm, self.origin(fleet), GoneReason.MIGRATED)

    def stays(self, fleet: Fleet) -> None:
        fleet.become(self.vm, self.origin(fleet), Status.UP, "migration_canceled")

    def never_arrived(self, fleet: Fleet) -> None:
        fleet.leave(self.vm, self.to, GoneReason.TRANSIENT_ENDED)


_DELAYS = {"S1": 0.0, "D1": 0.1, "D2": 1.0, "S2": 0.5}


def migrate(vm: int, to: int, *, order: Sequence[str] = REAL_ORDER, source_stays_defined: bool = False) -> Script:
    """A live migration that succeeds; `order` is that of the statements (see MIGRATION_ORDERS)."""
    route = _Route(vm, to)
    acts: dict[str, Act] = {
        "S1": route.leaving,
        "D1": route.arriving,
        "D2": route.arrived,
        "S2": route.left_down if source_stays_defined else route.left_gone,
    }
    steps = tuple(step(name, _DELAYS[name] if number else 0.0, acts[name]) for number, name in enumerate(order))
    return Script(name="migrate", vms=(vm,), steps=steps)


def migrate_fail(vm: int, to: int) -> Script:
    """A live migration whose destination ends: it stays where it was."""
    route = _Route(vm, to)
    return Script(
        name="migrate_fail",
        vms=(vm,),
        steps=(
            step("S1", 0.0, route.leaving),
            step("D1", 0.1, route.arriving),
            step("D gone", 1.0, route.never_arrived),
            step("S up", 0.2, route.stays),
        ),
    )


def migrate_cancel(vm: int, to: int) -> Script:
    """A live migration that is cancelled: the source goes on first."""
    route = _Route(vm, to)
    return Script(
        name="migrate_cancel",
        vms=(vm,),
        steps=(
            step("S1", 0.0, route.leaving),
            step("D1", 0.1, route.arriving),
            step("S up", 0.5, route.stays),
            step("D gone", 0.2, route.never_arrived),
        ),
    )
