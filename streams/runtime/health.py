"""The figures of a worker, as metrics. Hot paths count in plain integers; they are picked up here once a second."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from operator import itemgetter

from infra.runtime import metrics as names
from infra.runtime.metrics import GaugeSpec, Metrics
from streams.runtime.guards import Progress
from streams.runtime.intake import Intake
from streams.runtime.loading import Loaded
from streams.runtime.outbox import CycleReport, Outbox
from streams.runtime.ownership import Ownership
from streams.runtime.selftest import countable
from streams.runtime.stage import Counts, Stage

_topic_of = itemgetter(0)


class Rising:
    """Moves a counter to a number that only rises."""

    def __init__(self, add: Callable[[int], object]) -> None:
        self._add = add
        self._seen = 0

    def reach(self, number: int) -> None:
        """The number is this by now."""
        if number > self._seen:
            self._add(number - self._seen)
            self._seen = number


class Figures:
    """Writes what the parts of a worker counted. Owned by the event loop."""

    def __init__(self, metrics: Metrics, stage: Stage, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._metrics = metrics
        self._table_topic = stage.table_topic
        self._input = stage.inputs[0]
        self._wall_clock = wall_clock
        self._countable = countable(metrics.component)
        self._core_counts_gaps = names.OFFSET_GAPS.what in stage.metric_names()
        self._batch = metrics.histogram(names.BATCH)
        self._flush_seconds = metrics.histogram(names.OUTBOX_FLUSH_SECONDS)
        self._age = metrics.histogram(names.OBSERVED_AGE)
        self._received = Rising(metrics.counter(names.RECEIVED, topic=self._input).inc)
        self._repeats = Rising(metrics.counter(names.REPEATS).inc)
        self._gaps = Rising(metrics.counter(names.OFFSET_GAPS).inc)
        self._strays = Rising(metrics.counter(names.DROPPED, reason="not_owned", intentional="true").inc)
        self._rebalances = Rising(metrics.counter(names.REBALANCES).inc)
        self._ticks = Rising(metrics.counter(names.TICKS).inc)
        self._isolated = Rising(metrics.counter(names.ISOLATED).inc)
        self._reasserted = Rising(metrics.counter(names.REASSERTED).inc)

    def cycle(self, report: CycleReport) -> None:
        """The outbox ended a cycle."""
        if report.seconds:
            self._flush_seconds.observe(report.seconds)
            self._batch.observe(len(report.outputs) + report.rows)
            if report.rows:
                self._metrics.counter(names.SENT, topic=self._table_topic).inc(report.rows)
            for topic, records in Counter(map(_topic_of, report.outputs)).items():
                self._metrics.counter(names.SENT, topic=topic).inc(records)
        if report.urgent and report.acknowledged:
            appended_at_seconds = report.acknowledged[0].record.timestamp / 1000
            self._age.observe(max(0.0, self._wall_clock() - appended_at_seconds))

    def loaded(self, loaded: Loaded, seconds: float) -> None:
        """The tables were loaded."""
        self._metrics.histogram(names.RECOVERY_SECONDS).observe(seconds)

    def pick_up(self, ownership: Ownership, intake: Intake, outbox: Outbox, progress: Progress, ticks: int) -> None:
        """Take over what the parts counted since the last call."""
        self._received.reach(intake.received)
        self._repeats.reach(intake.repeats)
        if not self._core_counts_gaps:
            self._gaps.reach(intake.gaps)
        self._strays.reach(intake.strays)
        self._rebalances.reach(ownership.rebalances)
        self._ticks.reach(ticks)
        self._isolated.reach(intake.isolation.isolated)
        gauge = self._metrics.gauge
        gauge(names.ASSIGNED).set(len(ownership.lanes))
        gauge(names.RECOVERY_PROGRESS).set(ownership.recovery_share)
        gauge(names.OUTBOX_IN_FLIGHT).set(outbox.in_flight)
        for partition, lag in progress.lags.items():
            gauge(names.LAG, topic=self._input, partition=str(partition)).set(lag)
        for lane in ownership.lanes.values():
            for counts in lane.core.drain_counts():
                self._add(counts)

    def late_rows(self, rows: int) -> None:
        """So many rows of former owners were found by now."""
        self._reasserted.reach(rows)

    def loop_was_late(self, seconds: float) -> None:
        """The event loop woke up later than asked by so much."""
        self._metrics.histogram(names.LOOP_DELAY_SECONDS).observe(max(0.0, seconds))

    def _add(self, counts: Counts) -> None:
        spec = self._countable[counts.metric]
        labels = dict(zip(spec.labels, counts.labels, strict=True))
        if isinstance(spec, GaugeSpec):
            self._metrics.gauge(spec, **labels).inc(counts.amount)
        else:
            self._metrics.counter(spec, **labels).inc(counts.amount)
