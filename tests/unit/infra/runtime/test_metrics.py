"""Metric names, their bounds, and the object that writes them."""

from __future__ import annotations

import re

import pytest

from infra.runtime import metrics as names
from infra.runtime.metrics import (
    GUARD_MISSES,
    LABEL_SETS_LIMIT,
    LAG,
    OUTBOX_IN_FLIGHT,
    RECEIVED,
    SPECS,
    WRITE_SECONDS,
    CounterSpec,
    HistogramSpec,
    Metrics,
    Unit,
)

BOUNDED_LABELS = {
    "availability",
    "cause",
    "error_type",
    "facet",
    "intentional",
    "kind",
    "outcome",
    "partition",
    "reachability",
    "reason",
    "stage",
    "table",
    "topic",
}


def test_every_label_is_a_bounded_set() -> None:
    assert {label for spec in SPECS for label in spec.labels} <= BOUNDED_LABELS


def test_names_are_unique_per_component_and_well_formed() -> None:
    for component in ("agent", "hosts", "vms", "postgres"):
        found = [spec.name(component) for spec in SPECS if spec.belongs_to(component)]
        assert len(found) == len(set(found))
        for name in found:
            assert re.fullmatch(rf"deltavisor_{component}(_[a-z]+)+", name), name


def test_counters_end_in_total_and_times_in_seconds() -> None:
    assert RECEIVED.name("vms") == "deltavisor_vms_received_records_total"
    assert WRITE_SECONDS.name("postgres") == "deltavisor_postgres_write_seconds"
    assert all(spec.name("x").endswith("_total") is isinstance(spec, CounterSpec) for spec in SPECS)


def test_buckets_ascend() -> None:
    for spec in SPECS:
        if isinstance(spec, HistogramSpec):
            assert list(spec.buckets) == sorted(set(spec.buckets))


def test_every_component_has_what_the_house_style_asks() -> None:
    common = {spec.what for spec in SPECS if not spec.components}
    assert {"received", "sent", "errors", "dropped", "batch", "write", "lag", "observed_age"} <= common


def test_values_are_rendered_under_their_names() -> None:
    metrics = Metrics("vms")
    metrics.counter(RECEIVED, topic="vm.observations").inc(3)
    metrics.gauge(OUTBOX_IN_FLIGHT).set(7)
    metrics.histogram(WRITE_SECONDS).observe(0.003)
    text = metrics.render().decode()
    assert 'deltavisor_vms_received_records_total{topic="vm.observations"} 3.0' in text
    assert "deltavisor_vms_outbox_in_flight_records 7.0" in text
    assert 'deltavisor_vms_write_seconds_bucket{le="0.005"} 1.0' in text
    assert "process_cpu_seconds_total" in text


def test_two_components_do_not_share_values() -> None:
    first, second = Metrics("vms"), Metrics("vms")
    first.counter(RECEIVED, topic="t").inc()
    assert "received_records_total{" not in second.render().decode()


def test_a_metric_of_another_component_or_other_labels_are_refused() -> None:
    metrics = Metrics("vms")
    with pytest.raises(ValueError, match="guard_misses is not declared for component vms"):
        metrics.counter(GUARD_MISSES)
    with pytest.raises(ValueError, match="has labels"):
        metrics.counter(RECEIVED, host="h")


def test_labels_beyond_the_bound_are_counted_together() -> None:
    metrics = Metrics("vms")
    for partition in range(LABEL_SETS_LIMIT + 5):
        metrics.gauge(LAG, topic="t", partition=str(partition)).inc()
    text = metrics.render().decode()
    assert 'lag_records{partition="other",topic="other"} 5.0' in text
    assert text.count("deltavisor_vms_lag_records{") == LABEL_SETS_LIMIT + 1


def test_every_declared_metric_is_in_the_list() -> None:
    declared = [value for value in vars(names).values() if isinstance(value, names.MetricSpec)]
    assert declared == list(SPECS)
    assert all(spec.help.endswith(".") for spec in SPECS)
    assert {spec.unit for spec in SPECS} <= set(Unit)
