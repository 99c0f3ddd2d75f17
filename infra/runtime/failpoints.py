"""Failpoints: named places of a worker at which a test makes it die, fail, wait, or lose an answer.

Armed by the environment alone, never by a settings file: `DELTAVISOR_FAILPOINTS="vms.outbox.rows_delivered:kill:3"`
kills the vms worker when it comes to that place for the third time; several are separated by commas. Actions:

    point:kill[:hit]             SIGKILL to itself, as a power cut or the kernel's OOM killer would
    point:raise[:hit]            an error that nobody foresaw
    point:sleep:seconds[:hit]    stand still
    point:drop[:hit]             go on as if the answer never came (delivery report, reply to a commit)

Without the variable nothing of this exists in a worker: the parts that hit a point are built instead of the plain ones
(`streams.runtime.breaking`, `sinks.postgres.breaking`), and only then.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from infra.runtime.errors import ConfigError, FatalError
from infra.runtime.log import get_logger

VARIABLE: Final = "DELTAVISOR_FAILPOINTS"

_log = get_logger(__name__)

_IN_A_STAGE: Final = {
    "intake.polled": "a record was read and is not applied yet",
    "intake.applied": "a record is applied in memory, nothing it caused was sent",
    "outbox.before_outputs": "a flush with outputs begins, nothing of it was sent",
    "outbox.outputs_delivered": "outputs are durable, the rows of their wave were not sent",
    "outbox.before_rows": "a flush with rows begins; the outputs of their waves are durable",
    "outbox.row": "so many rows of a changelog batch are durable, those after them were never sent",
    "outbox.in_flush": "rows of wave k and outputs of wave k+1 are on their way together",
    "outbox.rows_alone": "of a flush with rows of wave k and outputs of wave k+1 the rows alone became durable",
    "outbox.outputs_alone": "of a flush with rows of wave k and outputs of wave k+1 the outputs alone became durable",
    "outbox.rows_delivered": "rows are durable, their inputs are not acknowledged",
    "outbox.acknowledged": "an input is acknowledged, those behind it are not",
    "commit.before": "offsets of acknowledged inputs are about to be committed",
    "commit.done": "the broker has the offsets, its reply was not read",
    "rebalance.revoked": "a rebalance begins, inputs are in flight",
    "rebalance.drained": "everything in flight is acknowledged, the rebalance is not answered",
    "rebalance.assigned": "a generation of the group gave partitions, nothing was loaded",
    "load.reading": "part of the table's log was read",
    "load.read": "the table's log was read, its cores are not in use yet",
    "load.settled": "the cores are in use, the inputs were not sought yet",
}

_IN_THE_SINK: Final = {
    "assigned": "partitions were assigned, their positions not taken",
    "position_taken": "the epoch of a partition was raised, nothing was read",
    "before_begin": "a batch is packed, its transaction not begun",
    "begun": "BEGIN was answered, nothing was said",
    "statement": "a statement of the transaction was answered, the next not sent",
    "copying": "rows of the history are on their way",
    "before_commit": "every statement was answered, COMMIT not sent",
    "commit_sent": "COMMIT was sent and the connection is cut before the reply",
    "committed": "COMMIT was answered, nothing was told to Kafka",
}

POINTS: Final[Mapping[str, str]] = {
    **{f"{stage}.{name}": what for stage in ("hosts", "vms") for name, what in _IN_A_STAGE.items()},
    **{f"postgres.{name}": what for name, what in _IN_THE_SINK.items()},
}
"""Every point, and what is true at it. The first word is the component whose workers have it."""

ONLY_MEANT_TO_DROP: Final = ("outbox.outputs_delivered", "outbox.rows_delivered", "commit.done", "commit_sent")
"""Ends of the names of points where an answer comes that can be dropped."""


class Action(StrEnum):
    """What happens at an armed point."""

    KILL = "kill"
    RAISE = "raise"
    SLEEP = "sleep"
    DROP = "drop"


class FailpointError(FatalError):
    """Raised at a point armed with `raise`."""


class Armed(NamedTuple):
    """One point of the variable."""

    point: str
    action: Action
    at_hit: int
    seconds: float
    """Of a sleep, 0 for everything else."""

    def __str__(self) -> str:
        length = f":{self.seconds:g}" if self.action is Action.SLEEP else ""
        return f"{self.point}:{self.action}{length}:{self.at_hit}"


def parse(text: str) -> tuple[Armed, ...]:
    """The points that the variable's value names. ConfigError for an unknown name, action or number."""
    return tuple(_parse_one(item.strip()) for item in text.split(",") if item.strip())


def armed_in(environment: Mapping[str, str], component: str) -> Failpoints | None:
    """The armed points of one component, None when there are none: the usual case. ConfigError as `parse`.

    A whole line may share one environment, so points of other components are checked and left to these.
    """
    ours = [armed for armed in parse(environment.get(VARIABLE, "")) if armed.point.split(".")[0] == component]
    if not ours:
        return None
    for armed in ours:
        _log.warning("failpoint_armed", point=armed.point, action=str(armed), what=POINTS[armed.point])
    return Failpoints(component, ours)


def _parse_one(item: str) -> Armed:
    point, *rest = item.split(":")
    if point not in POINTS:
        raise _refused(f"there is no point {point!r}", f"points: {', '.join(sorted(POINTS))}")
    try:
        action = Action(rest.pop(0)) if rest else Action.KILL
    except ValueError as error:
        raise _refused(f"{item!r} names no action", f"actions: {', '.join(Action)}") from error
    if action is Action.DROP and not point.endswith(ONLY_MEANT_TO_DROP):
        raise _refused(f"at {point!r} no answer comes that could be dropped", "use kill, raise or sleep there")
    try:
        seconds = float(rest.pop(0)) if action is Action.SLEEP else 0.0
        at_hit = int(rest.pop(0)) if rest else 1
    except (ValueError, IndexError) as error:
        raise _refused(f"{item!r} has no proper number", "write point:sleep:seconds:hit or point:kill:hit") from error
    if rest or at_hit < 1 or not 0 <= seconds < float("inf"):
        raise _refused(f"{item!r} has no proper number", "hits count from 1; nothing follows them")
    return Armed(point, action, at_hit, seconds)


def _refused(what: str, advice: str) -> ConfigError:
    return ConfigError(what, where=VARIABLE, advice=advice)


def _kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    # The signal of a process to itself is there before `kill` returns, if any thread may take it; never go on.
    time.sleep(60.0)


class Failpoints:
    """Counts the hits of a component's armed points and does what they say, each once. Safe from any thread."""

    def __init__(
        self,
        component: str,
        armed: Iterable[Armed],
        *,
        kill: Callable[[], object] = _kill_self,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._component = component
        self._armed = {one.point: one for one in armed}
        self._hits = dict.fromkeys(self._armed, 0)
        self._guard = threading.Lock()
        self._kill = kill
        self._sleep = sleep

    def hit(self, name: str) -> bool:
        """The worker is at this point. True when what it waits for must be taken as never answered.

        `name` is without the component. Raises FailpointError where that is armed.
        """
        return self.reached(name, 1) is not None and self.fire(name)

    def reached(self, name: str, hits: int) -> int | None:
        """Count so many hits at once; which of them (from 1) is the armed one, None when none is. Fires nothing."""
        point = f"{self._component}.{name}"
        armed = self._armed.get(point)
        if armed is None:
            return None
        with self._guard:
            before = self._hits[point]
            self._hits[point] = before + hits
        return armed.at_hit - before if before < armed.at_hit <= before + hits else None

    def fire(self, name: str) -> bool:
        """Do what is armed there; returns as `hit`."""
        armed = self._armed[f"{self._component}.{name}"]
        _log.warning("failpoint_fired", point=armed.point, action=str(armed))
        if armed.action is Action.KILL:
            self._kill()
        elif armed.action is Action.RAISE:
            raise FailpointError("armed to raise", where=f"failpoint {armed.point}")
        elif armed.action is Action.SLEEP:
            self._sleep(armed.seconds)
        return armed.action is Action.DROP
