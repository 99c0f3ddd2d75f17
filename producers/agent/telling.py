"""What an agent's shells count and show: one place that turns deliveries and counters into metrics."""

from collections.abc import Mapping

from prometheus_client import Counter

from infra.runtime.metrics import (
    AGENT_VMS,
    COALESCED_FACETS,
    ERRORS,
    LISTING_SECONDS,
    OBSERVED_AGE,
    PENDING_FACETS,
    SENT,
    SENT_BYTES,
    SNAPSHOTS,
    SOURCE_EVENTS,
    TRUNCATED_FACETS,
    Metrics,
)
from infra.runtime.topics import HOST_REPORTS
from producers.agent.clock import Instant
from producers.agent.publish import Delivery


class AgentMetrics:
    """Children looked up once; called by the thread that owns the reporters."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._sent = metrics.counter(SENT, topic=HOST_REPORTS)
        self._sent_bytes = metrics.counter(SENT_BYTES, topic=HOST_REPORTS)
        self._age = metrics.histogram(OBSERVED_AGE)
        self._known = metrics.gauge(AGENT_VMS)
        self._pending = metrics.gauge(PENDING_FACETS)
        self._coalesced = metrics.counter(COALESCED_FACETS)
        self._first = metrics.counter(SNAPSHOTS, cause="start")
        self._asked = metrics.counter(SNAPSHOTS, cause="resync")
        self._listing = metrics.histogram(LISTING_SECONDS)
        self._events = metrics.counter(SOURCE_EVENTS, kind="vm")
        self._unfit = metrics.counter(ERRORS, stage="facet", error_type="unfit")
        self._shown: dict[str, int] = {}

    def decided(self, delivery: Delivery, now: Instant) -> None:
        """Count one report's fate."""
        if delivery.error is not None:
            self._metrics.counter(ERRORS, stage="delivery", error_type=delivery.error.name()).inc()
            return
        self._sent.inc()
        self._sent_bytes.inc(delivery.size)
        self._age.observe(max(0.0, (now.wall_ns - delivery.observed_at) / 1e9))

    def listed(self, seconds: float) -> None:
        """Note how long a complete listing took."""
        self._listing.observe(seconds)

    def hinted(self, vms: int) -> None:
        """Count VMs that the source called dirty."""
        self._events.inc(vms)

    def source_failed(self) -> None:
        """Count a source that could not be asked."""
        self._metrics.counter(ERRORS, stage="source", error_type="unavailable").inc()

    def show(
        self, *, known: int, pending: int, counts: Mapping[str, int], cut: Mapping[str, int], unfit: int = 0
    ) -> None:
        """Set the gauges, and move the counters to these totals: of `OutgoingCounts`, of facets cut, by name, and of
        those left out because no reader could have accepted them."""
        self._known.set(known)
        self._pending.set(pending)
        self._move(self._coalesced, "coalesced", counts["coalesced"])
        self._move(self._first, "first_snapshots", counts["first_snapshots"])
        self._move(self._asked, "asked_snapshots", counts["asked_snapshots"])
        self._move(self._unfit, "unfit", unfit)
        for facet, total in cut.items():
            self._move(self._metrics.counter(TRUNCATED_FACETS, facet=facet), f"cut {facet}", total)

    def _move(self, counter: Counter, name: str, total: int) -> None:
        counter.inc(max(0, total - self._shown.get(name, 0)))
        self._shown[name] = total
