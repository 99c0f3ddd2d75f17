"""The stage as the runtime sees it."""

from pathlib import Path

import pytest

from infra.runtime import metrics, topics
from infra.runtime.settings import Secret
from streams.hosts.app import build, policy_of
from streams.runtime.settings import GraceSettings, HostsStreamSettings
from streams.runtime.stage import TickedCore, TickedStage

SETTINGS = HostsStreamSettings(tick_key=Secret("a key of the tests only"))
TOPIC_IDS = {topics.HOST_REPORTS: "9c5ad9cf-93d8-4ae1-a7c5-0f6d1a1fbb2d"}


def test_stage_reads_one_topic_and_makes_ticked_cores() -> None:
    stage = build(SETTINGS, 4, TOPIC_IDS)

    assert isinstance(stage, TickedStage)
    assert stage.inputs == (topics.HOST_REPORTS,)
    assert stage.table_topic == topics.HOSTS_TABLE
    assert isinstance(stage.loader(0).finish(), TickedCore)


def test_counts_are_declared_metrics_of_the_component() -> None:
    declared = {
        spec.name("hosts").removeprefix("deltavisor_hosts_").removesuffix("_total")
        for spec in metrics.SPECS
        if spec.belongs_to("hosts")
    }

    assert set(build(SETTINGS, 4, TOPIC_IDS).metric_names()) <= declared


def test_grace_is_what_the_user_set() -> None:
    """Rule H1."""
    grace = GraceSettings(base_ticks=30, ticks_per_vm=0.1, most_ticks=60)
    policy = policy_of(HostsStreamSettings(tick_key=Secret("a key of the tests only"), grace=grace))
    assert [policy.grace_ticks(vms) for vms in (0, 100, 10_000)] == [30, 40, 60]
    assert policy_of(SETTINGS).grace_ticks(1_000) == 40


def test_topic_id_is_needed() -> None:
    with pytest.raises(KeyError):
        build(SETTINGS, 4, {})


def test_core_imports_no_shell() -> None:
    folder = Path(__file__).parents[4] / "streams" / "hosts"
    for module in folder.glob("*.py"):
        if module.name != "app.py":
            text = module.read_text(encoding="utf-8")
            for word in ("import faust", "import confluent_kafka", "import time", "datetime", "logging", "infra."):
                assert word not in text, module.name
