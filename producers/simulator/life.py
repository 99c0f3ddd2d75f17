"""Random life over a fleet: so many happenings a second, with stretches of full stability on demand. Deterministic by
seed, as far as the moments are the same."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from infra.runtime.errors import ConfigError
from producers.agent.clock import Instant
from producers.simulator import migrations, scripts
from producers.simulator.fleet import Fleet, Script
from schemas.status import PauseErrno, Status

STARTS_AT_ONCE = 200
"""Scripts begun in one call at most, so that a slow moment is caught up in portions."""
ATTEMPTS = 20
"""Random VMs tried before a start is put off, when nearly all are busy."""


class PhaseKind(StrEnum):
    """What a stretch of time is for."""

    BUSY = "busy"
    STABLE = "stable"


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A stretch of time; `seconds` may be infinite."""

    kind: PhaseKind
    seconds: float


def parse_phases(text: str) -> tuple[Phase, ...]:
    """`busy:30,stable:20,busy:10` as phases; after the last one the fleet stays stable. Raises ConfigError."""
    phases = []
    for part in filter(None, text.split(",")):
        kind, _, seconds = part.strip().partition(":")
        try:
            phases.append(Phase(kind=PhaseKind(kind), seconds=float(seconds) if seconds else math.inf))
        except ValueError as error:
            raise ConfigError(
                f"{part.strip()!r} is no phase of life",
                where="simulator.life",
                advice='write phases as kind:seconds, such as "busy:30,stable:20"',
            ) from error
        if not phases[-1].seconds > 0:
            raise ConfigError(f"{part.strip()!r} has no length", where="simulator.life", advice="give it seconds")
    return tuple(phases)


class Life:
    """Starts random scripts in busy phases at `rate` happenings a second. A stable phase begins once every script
    has ended; `stable_phases` counts them."""

    def __init__(self, fleet: Fleet, *, rate: float, phases: tuple[Phase, ...] = (), seed: int = 0) -> None:
        last = Phase(kind=PhaseKind.BUSY if rate > 0 and not phases else PhaseKind.STABLE, seconds=math.inf)
        self._fleet = fleet
        self._rate = rate
        self._phases = [*phases, last]
        self._random = Random(f"life:{seed}")
        self._number = -1
        self._phase = last
        self._until_ns: float = 0.0
        self._paced_from: Instant | None = None
        self._steps_before = 0
        self._settling = False
        self.stable_phases = 0
        self.stable_since_ns: int | None = None
        """Wall clock; None in a busy phase and while scripts end."""
        self.stable_until_ns: int | None = None

    @property
    def stable(self) -> bool:
        """True while nothing happens and nothing is under way."""
        return self.stable_since_ns is not None

    def advance(self) -> None:
        """Begin what has to begin by now; the fleet plays it."""
        now = self._fleet.clock.now()
        if self._number < 0 or (not self._settling and now.monotonic_ns >= self._until_ns):
            self._enter(now)
        if self._settling and not self._fleet.running_scripts:
            self._rest(now)
        if self._paced_from is not None:
            self._keep_pace(now, self._paced_from)

    def _enter(self, now: Instant) -> None:
        self._number += 1
        self._phase = self._phases[self._number]
        self._paced_from = self.stable_since_ns = self.stable_until_ns = None
        if self._phase.kind is PhaseKind.BUSY:
            self._until_ns = now.monotonic_ns + self._phase.seconds * 1e9
            self._paced_from, self._steps_before = now, self._fleet.steps_done
        else:
            self._settling = True

    def _rest(self, now: Instant) -> None:
        self._settling = False
        self.stable_phases += 1
        self.stable_since_ns = now.wall_ns
        self._until_ns = now.monotonic_ns + self._phase.seconds * 1e9
        if not math.isinf(self._phase.seconds):
            self.stable_until_ns = now.wall_ns + int(self._phase.seconds * 1e9)

    def _keep_pace(self, now: Instant, since: Instant) -> None:
        wanted = int(self._rate * now.seconds_since(since)) + self._steps_before
        for _ in range(min(STARTS_AT_ONCE, wanted - self._fleet.steps_done)):
            if (script := self._choose()) is None:
                return
            self._fleet.start(script)

    def next_due_ns(self) -> int | None:
        """Monotonic time at which `advance` is to be called; None: only when a script ends."""
        if self._settling:
            return None
        if self._paced_from is not None and self._rate > 0:
            done = self._fleet.steps_done - self._steps_before
            next_step = self._paced_from.monotonic_ns + int((done + 1) / self._rate * 1e9)
            return next_step if math.isinf(self._until_ns) else min(next_step, int(self._until_ns))
        return None if math.isinf(self._until_ns) else int(self._until_ns)

    def _choose(self) -> Script | None:
        fleet = self._fleet
        for _ in range(ATTEMPTS):
            if not fleet.vms:
                return None
            vm = self._random.randrange(len(fleet.vms))
            host = fleet.hosts[fleet.vms[vm].owner]
            if vm in fleet.busy or fleet.vms[vm].removed or not host.reports or not host.connected:
                continue
            run = fleet.run_of(vm)
            if run is not None and (script := self._fitting(vm, run.status)) is not None:
                return script
        return None

    def _fitting(self, vm: int, status: Status) -> Script | None:
        if status is Status.UP:
            weights = [weight for weight, _ in _HAPPENINGS]
            _, make = self._random.choices(_HAPPENINGS, weights)[0]
            return make(vm, self._other_host(vm), self._random)
        if status is Status.PAUSED:
            return scripts.resume(vm)
        if status in (Status.DOWN, Status.CRASHED):
            return scripts.boot(vm)
        return None

    def _other_host(self, vm: int) -> int | None:
        """A reachable host that does not know this VM yet; None in a fleet where there is none."""
        fleet = self._fleet
        for _ in range(ATTEMPTS):
            host = self._random.choice(fleet.hosts)
            if vm not in host.runs and host.reports and host.connected:
                return host.index
        return None


def _migration(vm: int, to: int | None, random: Random) -> Script:
    if to is None:
        return scripts.plug(vm)
    kind = random.random()
    if kind < 0.1:
        return migrations.migrate_fail(vm, to)
    if kind < 0.2:
        return migrations.migrate_cancel(vm, to)
    return migrations.migrate(vm, to)


def _io_error(vm: int, _: int | None, random: Random) -> Script:
    errno = random.choice(list(PauseErrno))
    return scripts.then(scripts.io_error(vm, errno), scripts.resume(vm), after_seconds=1.0)


Make = Callable[[int, int | None, Random], Script]

_HAPPENINGS: tuple[tuple[float, Make], ...] = (
    (30, lambda vm, _, random: scripts.guest_change(vm)),
    (10, lambda vm, _, random: scripts.then(scripts.plug(vm), scripts.unplug(vm), after_seconds=1.5)),
    (6, lambda vm, _, random: scripts.plug(vm)),
    (12, lambda vm, _, random: scripts.connect(vm, random.randrange(1, 60_000))),
    (8, lambda vm, _, random: scripts.disconnect(vm)),
    (8, lambda vm, _, random: scripts.then(scripts.pause(vm), scripts.resume(vm), after_seconds=1.0)),
    (2, lambda vm, _, random: scripts.pause(vm)),
    (6, lambda vm, _, random: scripts.reboot(vm)),
    (4, lambda vm, _, random: scripts.block_job(vm)),
    (4, _io_error),
    (8, _migration),
    (2, lambda vm, _, random: scripts.stop(vm)),
    (3, lambda vm, _, random: scripts.then(scripts.stop(vm), scripts.boot(vm), after_seconds=0.5)),
    (2, lambda vm, _, random: scripts.then(scripts.destroy(vm), scripts.boot(vm), after_seconds=0.5)),
    (1, lambda vm, _, random: scripts.then(scripts.qemu_death(vm), scripts.boot(vm), after_seconds=1.0)),
)
"""What may happen to a running VM, with its weight; many small changes, few large ones."""
