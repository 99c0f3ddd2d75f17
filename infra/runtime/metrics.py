"""All metric names of the line, and the object through which a component writes them.

A name is ``deltavisor_<component>_<what>[_<unit>][_total]`` in base units. A new metric is one line below; a metric
without ``components`` belongs to every component. Labels are bounded sets: never a VM, a host or a message.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, ClassVar, Final

import msgspec
import prometheus_client
from prometheus_client.exposition import generate_latest

OTHER: Final = "other"
"""Label value of what exceeds the bound on label sets."""
LABEL_SETS_LIMIT: Final = 1_000
"""Per metric: 24 partitions x 16 topics fit, a label that grows with the fleet does not."""


class Unit(Enum):
    """What a metric counts or measures; the value is the part of the name."""

    NONE = ""
    SECONDS = "seconds"
    BYTES = "bytes"
    RATIO = "ratio"
    RECORDS = "records"
    ROWS = "rows"
    FACETS = "facets"
    VMS = "vms"
    HOSTS = "hosts"
    PARTITIONS = "partitions"


class MetricSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One metric. ``components`` empty means that every component has it."""

    suffix: ClassVar[str] = ""

    what: str
    unit: Unit = Unit.NONE
    help: str
    labels: tuple[str, ...] = ()
    components: frozenset[str] = frozenset()

    def name(self, component: str) -> str:
        """The full name, as Prometheus shows it."""
        parts = ("deltavisor", component, self.what, self.unit.value, self.suffix)
        return "_".join(part for part in parts if part)

    def belongs_to(self, component: str) -> bool:
        return not self.components or component in self.components


class CounterSpec(MetricSpec, frozen=True, kw_only=True):
    """Only rises, until the process starts anew."""

    suffix = "total"


class GaugeSpec(MetricSpec, frozen=True, kw_only=True):
    """Rises and falls."""


class HistogramSpec(MetricSpec, frozen=True, kw_only=True):
    """A distribution; ``buckets`` are upper bounds in the metric's unit, ascending."""

    buckets: tuple[float, ...]


_LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_AGES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_SIZES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0, 30_000.0)

_AGENT = frozenset({"agent", "simulator", "libvirt"})
_HOSTS = frozenset({"hosts"})
_VMS = frozenset({"vms"})
_STAGES = frozenset({"hosts", "vms", "storage"})
_POSTGRES = frozenset({"postgres"})

# Every component.
RECEIVED = CounterSpec(what="received", unit=Unit.RECORDS, labels=("topic",), help="Records read.")
SENT = CounterSpec(what="sent", unit=Unit.RECORDS, labels=("topic",), help="Records whose delivery was confirmed.")
SENT_BYTES = CounterSpec(what="sent", unit=Unit.BYTES, labels=("topic",), help="Values of the records sent.")
ERRORS = CounterSpec(what="errors", labels=("stage", "error_type"), help="Failures, where they were handled.")
DROPPED = CounterSpec(
    what="dropped", unit=Unit.RECORDS, labels=("reason", "intentional"), help="Records that had no effect."
)
BATCH = HistogramSpec(what="batch", unit=Unit.RECORDS, buckets=_SIZES, help="Records in one write.")
WRITE_SECONDS = HistogramSpec(
    what="write", unit=Unit.SECONDS, buckets=_LATENCIES, help="Duration of one write until it was durable."
)
LAG = GaugeSpec(
    what="lag", unit=Unit.RECORDS, labels=("topic", "partition"), help="Records in the log that were not applied yet."
)
OBSERVED_AGE = HistogramSpec(
    what="observed_age", unit=Unit.SECONDS, buckets=_AGES, help="Time from observation to the end of the work on it."
)
DEAD_LETTERS = CounterSpec(
    what="dead_letters", unit=Unit.RECORDS, labels=("reason",), help="Records nobody could use, kept in dead.letters."
)

# Agents.
LISTING_SECONDS = HistogramSpec(
    what="listing", unit=Unit.SECONDS, buckets=_LATENCIES, components=_AGENT, help="Duration of listing all VMs."
)
SOURCE_EVENTS = CounterSpec(
    what="source_events", labels=("kind",), components=_AGENT, help="Hints from the hypervisor that a VM changed."
)
AGENT_VMS = GaugeSpec(what="known", unit=Unit.VMS, components=_AGENT, help="VMs in the last report.")
PENDING_FACETS = GaugeSpec(
    what="pending", unit=Unit.FACETS, components=_AGENT, help="Changed facets that wait for delivery."
)
COALESCED_FACETS = CounterSpec(
    what="coalesced", unit=Unit.FACETS, components=_AGENT, help="Facets replaced by a later one before delivery."
)
TRUNCATED_FACETS = CounterSpec(
    what="truncated", unit=Unit.FACETS, labels=("facet",), components=_AGENT, help="Facets cut to the size limit."
)
SNAPSHOTS = CounterSpec(
    what="snapshots", labels=("cause",), components=_AGENT, help="Complete reports: start, resync, reconnect."
)

# Every stage.
ASSIGNED = GaugeSpec(what="assigned", unit=Unit.PARTITIONS, components=_STAGES, help="Input partitions owned.")
REBALANCES = CounterSpec(what="rebalances", components=_STAGES, help="Changes of the assignment.")
RECOVERY_PROGRESS = GaugeSpec(
    what="recovery_progress", unit=Unit.RATIO, components=_STAGES, help="Share of the table changelog that was loaded."
)
RECOVERY_SECONDS = HistogramSpec(
    what="recovery", unit=Unit.SECONDS, buckets=_AGES, components=_STAGES, help="Duration of loading the tables."
)
OUTBOX_IN_FLIGHT = GaugeSpec(
    what="outbox_in_flight", unit=Unit.RECORDS, components=_STAGES, help="Records between computed and acknowledged."
)
OUTBOX_FLUSH_SECONDS = HistogramSpec(
    what="outbox_flush", unit=Unit.SECONDS, buckets=_LATENCIES, components=_STAGES, help="Duration of one group commit."
)
TICKS = CounterSpec(what="ticks", components=_STAGES, help="Ticks made by this worker.")
TICKS_COUNTED = CounterSpec(what="ticks_counted", components=_STAGES, help="Ticks that moved the clock.")
TICKS_REFUSED = CounterSpec(
    what="ticks_refused", labels=("reason",), components=_STAGES, help="Ticks unsigned, early or out of order."
)
REPEATS = CounterSpec(what="repeats", unit=Unit.RECORDS, components=_STAGES, help="Inputs seen before, without effect.")
OFFSET_GAPS = CounterSpec(
    what="offset_gaps", components=_STAGES, help="Inputs that fell off the log before being read."
)
ISOLATED = CounterSpec(
    what="isolated", unit=Unit.RECORDS, components=_STAGES, help="Inputs that could not be applied whole."
)
REASSERTED = CounterSpec(
    what="reasserted", unit=Unit.ROWS, components=_STAGES, help="Rows of a former owner that came late, written over."
)
LOOP_DELAY_SECONDS = HistogramSpec(
    what="loop_delay",
    unit=Unit.SECONDS,
    buckets=_LATENCIES,
    components=_STAGES,
    help="How late the event loop woke up.",
)

# The hosts stage.
EQUAL_FACETS = CounterSpec(
    what="equal", unit=Unit.FACETS, components=_HOSTS, help="Facets reported again with the same fingerprint."
)
SEQUENCE_GAPS = CounterSpec(what="sequence_gaps", components=_HOSTS, help="Reports missing between two of one epoch.")
DIGEST_MISMATCHES = CounterSpec(
    what="digest_mismatches", components=_HOSTS, help="Reports whose digest or count differs from ours."
)
RESYNCS = CounterSpec(
    what="resyncs", labels=("cause",), components=_HOSTS | _VMS, help="Requests to agents to report everything again."
)

# The VMs stage.
CHANGES = CounterSpec(what="changes", labels=("cause",), components=_VMS | _HOSTS, help="Changes published.")
REJECTED_FACETS = CounterSpec(
    what="rejected", unit=Unit.FACETS, labels=("facet",), components=_VMS, help="Facets that could not be read."
)
FACET_SUMS = CounterSpec(
    what="facet_sums",
    labels=("outcome",),
    components=_VMS,
    help="Hourly sums of a host by outcome: equal, unequal (asked), flagged (asking did not help).",
)
OBSERVATION_GAPS = CounterSpec(
    what="observation_gaps", components=_VMS, help="Batches of a hosts partition that did not join the one before."
)
INTENTS = CounterSpec(
    what="intents", unit=Unit.RECORDS, labels=("outcome",), components=_VMS, help="Copies of intents by what they did."
)

QUARANTINES = CounterSpec(
    what="quarantines", labels=("reason",), components=_VMS, help="VMs put in quarantine, and lifted."
)

# The PostgreSQL sink.
ROWS_WRITTEN = CounterSpec(
    what="written", unit=Unit.ROWS, labels=("table",), components=_POSTGRES, help="Rows inserted, updated or deleted."
)
TRANSACTIONS = CounterSpec(
    what="transactions", labels=("outcome",), components=_POSTGRES, help="Transactions by how they ended."
)
GUARD_MISSES = CounterSpec(
    what="guard_misses", components=_POSTGRES, help="Batches whose row count said that deltas were known or missing."
)
REPAIRED_ROWS = CounterSpec(
    what="repaired",
    unit=Unit.ROWS,
    components=_POSTGRES,
    help="Rows that took the whole state, since changes before it are gone.",
)
FENCED = CounterSpec(
    what="fenced", components=_POSTGRES, help="Batches refused because another worker owns the partition."
)

SPECS: Final = tuple(value for value in list(globals().values()) if isinstance(value, MetricSpec))
"""Every metric there is; tests compare documents, rules and dashboards with it."""

_Child = prometheus_client.Counter | prometheus_client.Gauge | prometheus_client.Histogram


class Metrics:
    """The metrics of one component of one process, in a registry of their own.

    A hot loop looks up what it needs once, before it begins, and keeps the child.
    """

    def __init__(self, component: str) -> None:
        self.component = component
        self.registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self.registry)
        prometheus_client.GCCollector(registry=self.registry)
        self._parents: dict[MetricSpec, _Child] = {
            spec: self._register(spec) for spec in SPECS if spec.belongs_to(component)
        }
        self._label_sets: dict[MetricSpec, set[tuple[str, ...]]] = {spec: set() for spec in self._parents}

    def counter(self, spec: CounterSpec, **labels: str) -> prometheus_client.Counter:
        """The counter of these labels. ValueError if this component has no such metric or labels differ."""
        child: prometheus_client.Counter = self._child(spec, labels)
        return child

    def gauge(self, spec: GaugeSpec, **labels: str) -> prometheus_client.Gauge:
        """The gauge of these labels; same errors."""
        child: prometheus_client.Gauge = self._child(spec, labels)
        return child

    def histogram(self, spec: HistogramSpec, **labels: str) -> prometheus_client.Histogram:
        """The histogram of these labels; same errors."""
        child: prometheus_client.Histogram = self._child(spec, labels)
        return child

    def render(self) -> bytes:
        """All values in the Prometheus text format."""
        return generate_latest(self.registry)

    def _register(self, spec: MetricSpec) -> _Child:
        name = spec.name(self.component)
        if isinstance(spec, HistogramSpec):
            return prometheus_client.Histogram(
                name, spec.help, spec.labels, buckets=spec.buckets, registry=self.registry
            )
        kind = prometheus_client.Counter if isinstance(spec, CounterSpec) else prometheus_client.Gauge
        return kind(name, spec.help, spec.labels, registry=self.registry)

    def _child(self, spec: MetricSpec, labels: dict[str, str]) -> Any:
        parent = self._parents.get(spec)
        if parent is None:
            raise ValueError(f"{spec.what} is not declared for component {self.component}")
        if labels.keys() != set(spec.labels):
            raise ValueError(f"{spec.name(self.component)} has labels {spec.labels}, not {tuple(labels)}")
        if not spec.labels:
            return parent
        values = tuple(labels[name] for name in spec.labels)
        known = self._label_sets[spec]
        if values not in known:
            if len(known) >= LABEL_SETS_LIMIT:
                values = (OTHER,) * len(values)
            known.add(values)
        return parent.labels(*values)
