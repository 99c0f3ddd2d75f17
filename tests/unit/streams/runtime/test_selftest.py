"""The parts of the start-up check that need no broker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace

import pytest

from infra.runtime import metrics as names
from infra.runtime.errors import ConfigError
from infra.runtime.metrics import Metrics
from infra.runtime.settings import KafkaSettings
from streams.runtime.app import app_settings, require_raw
from streams.runtime.health import Figures, Rising
from streams.runtime.outbox import CycleReport, Receipt
from streams.runtime.selftest import countable, require_stage, topics_of
from streams.runtime.sender import RECORD_OVERHEAD_BYTES, Limits, RecordTooLarge
from streams.runtime.settings import VmsStreamSettings
from streams.runtime.stage import Batch, Output, PartitionLoader, Row
from streams.runtime.versions import TESTED, require_tested_versions
from tests.unit.streams.runtime.doubles import FakeRecord, Journal, JournalFeed


class FakeStage:
    name = "fake"
    table_topic = "vm.state"
    outputs: tuple[str, ...] = ("vm.changes",)

    def __init__(self, inputs: tuple[str, ...] = ("vm.observations",), counts: tuple[str, ...] = ()) -> None:
        self.inputs = inputs
        self._counts = counts

    def loader(self, partition: int) -> PartitionLoader:
        raise AssertionError("not loaded here")

    def metric_names(self) -> Iterable[str]:
        return self._counts


def test_a_stage_has_one_input_and_counts_what_is_declared() -> None:
    require_stage(FakeStage(counts=("changes", "rejected_facets")), "vms")
    with pytest.raises(ValueError, match="exactly one input"):
        require_stage(FakeStage(inputs=("a", "b")), "vms")
    with pytest.raises(ValueError, match="counts equal_facets"):
        require_stage(FakeStage(counts=("equal_facets",)), "vms")


def test_every_topic_is_required_once() -> None:
    assert topics_of(FakeStage()) == ("vm.observations", "vm.state", "vm.changes", "dead.letters")


def test_counters_and_gauges_are_known_by_what_and_unit() -> None:
    known = countable("hosts")
    assert known["equal_facets"] is names.EQUAL_FACETS
    assert known["sequence_gaps"] is names.SEQUENCE_GAPS
    assert "outbox_flush_seconds" not in known


def test_another_version_is_refused() -> None:
    require_tested_versions()
    found: Mapping[str, str] = {**TESTED, "aiokafka": "0.15.0"}
    with pytest.raises(ConfigError, match=r"aiokafka 0\.15\.0 \(tested: 0\.14\.0\)"):
        require_tested_versions(found.__getitem__)


def test_a_record_needs_room_for_its_framing() -> None:
    limits = Limits({"vm.changes": 1_000 + RECORD_OVERHEAD_BYTES, "vm.state": 2_000}, "vm.state")
    assert limits.fits("vm.changes", 1_000)
    assert not limits.fits("vm.changes", 1_001)
    whole = Output("vm.changes", 0, b"vm-7", b"x" * 996, ())
    limits.check(Batch([whole], [Row(b"vm-7", None, None)]))
    with pytest.raises(RecordTooLarge, match=r"vm\.changes key b'vm-7': a record of 1001 bytes is above .* of 1000"):
        limits.check(Batch([whole, whole._replace(value=b"x" * 997)], []))
    with pytest.raises(RecordTooLarge, match=r"vm\.state key b'vm-7': a record of 2004 bytes"):
        limits.check(Batch([], [Row(b"vm-7", b"x" * 2_000, None)]))


def test_faust_decodes_nothing() -> None:
    settings = app_settings(VmsStreamSettings(kafka=KafkaSettings(bootstrap="a:1,b:2")))
    assert settings["key_serializer"] == settings["value_serializer"] == "raw"
    assert settings["broker"] == "kafka://a:1;kafka://b:2"
    assert settings["consumer_group_instance_id"] == "vms-1"
    conf = SimpleNamespace(key_serializer="raw", value_serializer="raw")
    topic = SimpleNamespace(key_serializer=None, value_serializer="json")
    with pytest.raises(ValueError, match=r"topic\.value_serializer"):
        require_raw(SimpleNamespace(conf=conf), topic)


def test_rising_adds_only_what_is_new() -> None:
    added: list[int] = []
    rising = Rising(added.append)
    for number in (3, 3, 7, 5):
        rising.reach(number)
    assert added == [3, 4]


def test_a_cycle_counts_what_was_sent_by_topic_and_how_old_it_was() -> None:
    metrics = Metrics("vms")
    message = FakeRecord(0, 0)
    figures = Figures(metrics, FakeStage(), wall_clock=lambda: message.timestamp / 1000 + 0.2)
    outputs = [Output("vm.changes", 0, None, b"", ()), Output("vm.changes", 1, None, b"", ())]
    receipt = Receipt(JournalFeed(Journal()), message, 1)
    figures.cycle(CycleReport(outputs, 3, [receipt], urgent=True, seconds=0.004))
    text = metrics.render().decode()
    assert 'deltavisor_vms_sent_records_total{topic="vm.changes"} 2.0' in text
    assert 'deltavisor_vms_sent_records_total{topic="vm.state"} 3.0' in text
    assert 'deltavisor_vms_observed_age_seconds_bucket{le="0.1"} 0.0' in text
    assert 'deltavisor_vms_observed_age_seconds_bucket{le="0.25"} 1.0' in text
