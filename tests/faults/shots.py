"""Deaths by appointment: which failpoints a part meets, one process after another."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from infra.runtime.errors import ExitCode
from infra.runtime.failpoints import POINTS, Action, parse
from tests.faults.crew import Crew

KILLED = -signal.SIGKILL
SHOT_SECONDS = 120.0
"""For one process to start and come to its point, on a machine that does much else."""
TRIES = 3
AFTERLIFE_SECONDS = 3.0
"""How long a part goes on that an armed point did not end, before it is killed there."""

HITS: Mapping[str, int] = {
    "intake.polled": 40,
    "intake.applied": 40,
    "outbox.before_outputs": 15,
    "outbox.outputs_delivered": 15,
    "outbox.before_rows": 6,
    "outbox.row": 333,
    "outbox.in_flush": 5,
    "outbox.rows_alone": 5,
    "outbox.outputs_alone": 5,
    "outbox.rows_delivered": 6,
    "outbox.acknowledged": 60,
    "statement": 2,
    "committed": 3,
}
"""At which hit: late enough that the worker is in its stride, soon enough to be cheap. 1 for all others."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One process's appointment and the exit code it leads to; None: it lives on, and is killed a little later."""

    armed: str
    code: int | None = KILLED


@dataclass(kw_only=True)
class Tally:
    """What became of the shots."""

    hit: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    """Met another end first, and were tried again."""
    missed: list[str] = field(default_factory=list)


def kill_at_every_point(component: str) -> list[Shot]:
    """One kill at each point of a component."""
    points = [name for name in POINTS if name.startswith(f"{component}.")]
    return [Shot(armed=f"{name}:kill:{HITS.get(name.partition('.')[2], 1)}") for name in points]


def of(armed: str) -> Shot:
    """A shot with the exit code that its action leads to."""
    [one] = parse(armed)
    if one.action is Action.KILL:
        return Shot(armed=armed)
    if one.action is Action.RAISE or one.point.endswith("_delivered"):
        return Shot(armed=armed, code=ExitCode.INTERNAL)
    return Shot(armed=armed, code=None)


def fire_all(crew: Crew, shots: Mapping[str, Sequence[Shot]]) -> Tally:
    """Every part meets its shots in turn, all parts at the same time; the last process of each is unarmed."""
    tally = Tally()
    failures: list[BaseException] = []

    def one_part(name: str) -> None:
        try:
            _fire(crew, name, shots[name], tally)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one_part, args=(name,), name=f"shots-{name}") for name in shots]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return tally


def _fire(crew: Crew, name: str, shots: Sequence[Shot], tally: Tally) -> None:
    """A shot that met another end first, such as a fence on a machine that was busy elsewhere, comes again."""
    waiting = deque((shot, 1) for shot in shots)
    crew.arm(name, shots[0].armed)
    _next_life(crew, name)
    while waiting:
        shot, tried = waiting.popleft()
        crew.arm(name, waiting[0][0].armed if waiting else "")
        _await(crew, name, shot)
        ended = crew.last(name)
        if ended.armed == shot.armed and ended.fired and ended.code == (shot.code or KILLED):
            tally.hit.append(shot.armed)
        elif tried < TRIES:
            tally.again.append(f"{shot.armed}: {ended}")
            if not waiting:
                crew.arm(name, shot.armed)
                _next_life(crew, name)
            waiting.append((shot, tried + 1))
        else:
            tally.missed.append(f"{shot.armed}: {ended}")


def _next_life(crew: Crew, name: str) -> None:
    before = crew.lives(name)
    crew.signal(name)
    crew.until(lambda: crew.lives(name) > before and crew.running(name), SHOT_SECONDS, f"{name} starts again")


def _await(crew: Crew, name: str, shot: Shot) -> None:
    lives = crew.lives(name)
    if shot.code is None:
        crew.until(lambda: crew.fired(name) or crew.lives(name) > lives, SHOT_SECONDS, f"{name} at {shot.armed}")
        time.sleep(AFTERLIFE_SECONDS)
        crew.signal(name)
    crew.until(lambda: crew.lives(name) > lives and crew.running(name), SHOT_SECONDS, f"{name} dies at {shot.armed}")
