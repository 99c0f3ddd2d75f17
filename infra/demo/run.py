"""The demonstration from start to verdict.

    first snapshots ──► busy ──► settle ──► stable, measured ──► busy ──► settle ──► compare fleet, topics and tables

The simulated fleet says itself when it is quiet (its truth file); from then on nothing may be written at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from infra.agreement.compare import compare_tables, compare_truth, shorten, truth_of
from infra.agreement.topics import fold_vm_changes
from infra.cli.connect import open_reader, reader_settings
from infra.demo.measure import STATISTICS_SETTLE_SECONDS, count, current_rows, event_to_row, history_rows, rows_written
from infra.demo.screen import Screen
from infra.demo.watcher import Watcher
from infra.runtime.errors import FatalError
from infra.runtime.settings import KafkaSettings
from infra.runtime.topics import TopicSet
from infra.stack.endpoints import Endpoints
from infra.supervisor.line import LineOptions
from infra.supervisor.running import RunningLine
from producers.simulator.truth import TruthFile, read_truth

START_SECONDS = 90.0
QUIET_SECONDS = 3.0
"""Without a change for so long after the fleet fell silent, everything under way has arrived."""
SETTLE_LIMIT_SECONDS = 60.0
IDLE_SECONDS = 10.0
"""Measured stretch without any event: two heartbeats of every agent."""
ARRIVAL_SECONDS = 8.0
"""For the first snapshots: a delay measured among thousands of VMs that all come at once says nothing of a change."""
SLACK_SECONDS = 8.0
"""What a loaded machine may take longer to carry the last changes through the line."""
LOOK_SECONDS = 0.25


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What the demonstration measured, and whether all agreed."""

    vms: int
    hosts: int
    changes_published: int
    """Distinct changes in vm.changes."""
    history_rows: int
    """Rows of vm_change."""
    current_rows: int
    """Rows of vm."""
    idle_row_writes: int
    """Rows written anywhere while the fleet was stable and agents kept reporting."""
    event_to_row_p50_ms: float | None
    event_to_row_p99_ms: float | None
    ok: bool
    disagreements: list[str]
    seconds: float


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How long what lasts, in seconds."""

    arrival: float
    first_busy: float
    stable: float
    last_busy: float

    @classmethod
    def of(cls, seconds: float) -> Plan:
        """Divide the time that is to be shown; the stable part needs what PostgreSQL's counters need to settle."""
        stable = QUIET_SECONDS + STATISTICS_SETTLE_SECONDS + IDLE_SECONDS + SLACK_SECONDS
        busy = max(10.0, seconds - stable - ARRIVAL_SECONDS)
        return cls(
            arrival=ARRIVAL_SECONDS, first_busy=round(busy * 0.7, 1), stable=stable, last_busy=round(busy * 0.3, 1)
        )

    @property
    def life(self) -> str:
        """The same for the simulator's `--life`."""
        return f"stable:{self.arrival},busy:{self.first_busy},stable:{self.stable},busy:{self.last_busy}"


class Demonstration:
    """Watches a running line with a simulated fleet in it, and judges it."""

    def __init__(
        self,
        stack: str,
        endpoints: Endpoints,
        options: LineOptions,
        line: RunningLine,
        truth_file: Path,
        plan: Plan,
        stopped: Callable[[], bool],
    ) -> None:
        self._settings = reader_settings(stack)
        kafka = KafkaSettings(bootstrap=endpoints.kafka, topic_prefix=options.topic_prefix)
        self._kafka, self._topics = kafka, TopicSet.of(kafka, options.topics)
        self._line = line
        self._truth_file = truth_file
        self._plan = plan
        self._stopped = stopped
        self._watcher = Watcher(kafka, self._topics)
        self._started_at = time.monotonic()
        self._idle_writes = 0

    def run(self, screen: Screen) -> Summary:
        """Show the fleet's life, measure its rest, compare at the end. Raises FatalError when it gets stuck."""
        self._watcher.start()
        try:
            self._line.wait_ready(START_SECONDS, lambda: self._look(screen, "starting", START_SECONDS))
            arrival = self._until_stable(screen, 1, "first snapshots", self._plan.arrival)
            since = (arrival.stable_until_ns or time.time_ns()) / 1e9
            rest = self._until_stable(screen, 2, "life", self._plan.arrival + self._plan.first_busy)
            self._measure_rest(screen, rest)
            last = self._until_stable(screen, 3, "more life", self._plan.last_busy)
            self._until_quiet(screen)
            return self._judge(last, since)
        finally:
            self._watcher.close()

    def _look(self, screen: Screen, phase: str, left_seconds: float) -> None:
        if self._stopped():
            raise FatalError("interrupted before the end", where="demo")
        screen.show(phase, max(0.0, left_seconds), self._watcher, self._line.states())

    def _until_stable(self, screen: Screen, phase: int, name: str, seconds: float) -> TruthFile:
        """Wait until the simulator says that stable phase number `phase` has begun."""
        began = time.monotonic()
        while True:
            truth = read_truth(self._truth_file)
            if truth is not None and truth.phase >= phase:
                return truth
            passed = time.monotonic() - began
            if passed > seconds + START_SECONDS:
                raise FatalError(f"the simulated fleet did not fall silent within {passed:.0f} s", where="demo")
            self._look(screen, name, seconds - passed)
            time.sleep(LOOK_SECONDS)

    def _measure_rest(self, screen: Screen, truth: TruthFile) -> None:
        """Count the rows that are written while nothing happens; agents go on reporting."""
        self._until_quiet(screen)
        self._wait(screen, "stable: letting the database's counters settle", STATISTICS_SETTLE_SECONDS)
        with open_reader(self._settings) as reader:
            before = rows_written(reader)
        until_ns = truth.stable_until_ns or 0
        left = min(IDLE_SECONDS, until_ns / 1e9 - time.time() - 1.0)
        if left < IDLE_SECONDS / 2:
            raise FatalError("the line took so long to fall silent that no rest was left to measure", where="demo")
        self._wait(screen, "stable: not one row may be written", left)
        with open_reader(self._settings) as reader:
            self._idle_writes = rows_written(reader) - before

    def _wait(self, screen: Screen, phase: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._look(screen, phase, left)
            time.sleep(min(LOOK_SECONDS, left))

    def _until_quiet(self, screen: Screen) -> None:
        began = time.monotonic()
        while time.monotonic() - self._watcher.last_at < QUIET_SECONDS:
            if time.monotonic() - began > SETTLE_LIMIT_SECONDS:
                return
            self._look(screen, "settling", QUIET_SECONDS)
            time.sleep(LOOK_SECONDS)

    def _judge(self, truth: TruthFile, since: float) -> Summary:
        fold = fold_vm_changes(self._kafka, self._topics)
        with open_reader(self._settings) as reader:
            current, history = current_rows(reader), history_rows(reader)
            delay = event_to_row(reader, since, time.time())
            hosts = count(reader, "host")
        known = truth_of(truth.vms)
        found = [
            *fold.problems,
            *compare_tables(fold, current, history),
            *compare_truth(fold, known, truth.hosts.keys()),
        ]
        if self._idle_writes:
            found.append(f"{self._idle_writes} rows were written while nothing happened")
        if hosts < len(truth.hosts):
            found.append(f"{len(truth.hosts)} hosts report, table host has {hosts}")
        return Summary(
            vms=len(truth.vms),
            hosts=hosts,
            changes_published=len(fold.distinct),
            history_rows=len(history),
            current_rows=len(current),
            idle_row_writes=self._idle_writes,
            event_to_row_p50_ms=delay.p50_ms,
            event_to_row_p99_ms=delay.p99_ms,
            ok=not found,
            disagreements=shorten(found),
            seconds=round(time.monotonic() - self._started_at, 1),
        )
