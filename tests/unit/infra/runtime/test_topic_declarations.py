"""Declarations: what the design asks of every topic, and one sentence per difference a broker shows."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from infra.runtime.errors import ConfigError
from infra.runtime.topic_declarations import (
    Cleanup,
    FoundTopic,
    TimestampType,
    declarations,
    load_declarations,
    missing_topic,
    problems_of,
)
from infra.runtime.topics import (
    ALL_TOPICS,
    HOST_INTENTS,
    HOST_REPORTS,
    HOST_STATE,
    HOSTS_TABLE,
    STORAGE_STATE,
    VM_CHANGES,
    VM_INTENTS,
    VM_OBSERVATIONS,
    VM_STATE,
    VM_STATS,
    TopicSet,
)

MIB = 1024 * 1024


def _as_declared(topic: str, partitions: int = 4) -> FoundTopic:
    return FoundTopic(
        name=topic,
        topic_id="00000000-0000-0000-0000-000000000001",
        partitions=partitions,
        configs=declarations()[topic].kafka_configs(min_insync_replicas=1),
    )


def _with(topic: str, **configs: str) -> FoundTopic:
    found = _as_declared(topic)
    changed = {name.replace("_", "."): value for name, value in configs.items()}
    return msgspec.structs.replace(found, configs={**found.configs, **changed})


def test_every_constant_is_declared_and_nothing_else() -> None:
    assert tuple(declarations()) == ALL_TOPICS


def test_state_topics_alone_are_compacted_and_keep_an_hour_uncompacted() -> None:
    compacted = {name for name, topic in declarations().items() if topic.cleanup is Cleanup.COMPACT}
    assert compacted == {VM_STATE, HOST_STATE, STORAGE_STATE, HOSTS_TABLE}
    for name in compacted:
        assert int(declarations()[name].kafka_configs(min_insync_replicas=1)["min.compaction.lag.ms"]) >= 3_600_000


def test_only_what_agents_write_is_limited_to_one_mebibyte() -> None:
    limits = {name: topic.max_message_bytes for name, topic in declarations().items()}
    assert {name for name, limit in limits.items() if limit == MIB} == {HOST_REPORTS, VM_STATS}
    assert set(limits.values()) == {MIB, 4 * MIB}


def test_input_logs_are_stamped_by_the_broker() -> None:
    stamped = {name for name, topic in declarations().items() if topic.timestamp is TimestampType.LOG_APPEND}
    assert {HOST_REPORTS, VM_OBSERVATIONS, VM_INTENTS, HOST_INTENTS} <= stamped
    assert VM_CHANGES not in stamped


def test_configs_are_what_kafka_takes() -> None:
    assert declarations()[HOST_REPORTS].kafka_configs(min_insync_replicas=2) == {
        "cleanup.policy": "delete",
        "compression.type": "producer",
        "max.message.bytes": "1048576",
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": "2",
        "retention.ms": "86400000",
        "segment.bytes": "268435456",
        "segment.ms": "3600000",
    }


@pytest.mark.parametrize("topic", ALL_TOPICS)
def test_a_topic_as_declared_has_no_problem(topic: str) -> None:
    assert problems_of(declarations()[topic], _as_declared(topic), partitions=4) == []


@pytest.mark.parametrize(
    ("found", "sentence", "mended_by"),
    [
        (_as_declared(VM_CHANGES, 6), "topic vm.changes has 6 partitions, this topic set has 4: a count is fixed", {}),
        (_with(VM_STATE, cleanup_policy="delete"), "has cleanup.policy=delete, but must have compact", {}),
        (
            _with(HOST_REPORTS, message_timestamp_type="CreateTime"),
            "has message.timestamp.type=CreateTime, but must have LogAppendTime",
            {},
        ),
        (
            _with(VM_CHANGES, max_message_bytes="1048588"),
            "has max.message.bytes=1048588, but needs at least 4194304: raise it with",
            {"max.message.bytes": "4194304"},
        ),
        (
            _with(VM_STATE, min_compaction_lag_ms="0"),
            "has min.compaction.lag.ms=0, but needs at least 3600000",
            {"min.compaction.lag.ms": "3600000"},
        ),
    ],
)
def test_each_difference_is_a_sentence(found: FoundTopic, sentence: str, mended_by: dict[str, str]) -> None:
    (problem,) = problems_of(declarations()[found.name], found, partitions=4)
    assert sentence in str(problem)
    assert problem.alter == mended_by


def test_more_room_than_declared_is_no_problem() -> None:
    found = _with(VM_STATE, max_message_bytes="9999999", min_compaction_lag_ms="7200000")
    assert problems_of(declarations()[VM_STATE], found, partitions=4) == []


def test_a_config_the_broker_did_not_tell_is_a_problem() -> None:
    bare = msgspec.structs.replace(_as_declared(VM_STATE), configs={})
    problems = problems_of(declarations()[VM_STATE], bare, partitions=4)
    assert len(problems) == 4
    assert all("=unknown" in problem.what for problem in problems)


def test_a_missing_topic_says_how_to_create_it() -> None:
    assert str(missing_topic("lab.vm.state")).startswith("topic lab.vm.state does not exist: create it with")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('["a"]\npurpose = "x"\ncleanup = "shred"\n', "shred"),
        ('["a"]\npurpose = "x"\ncleanup = "delete"\nretention = 1\n', "retention"),
        ('["a"]\ncleanup = "delete"\n', "purpose"),
        ("[a\n", "mend that topic"),
    ],
)
def test_a_bad_declaration_file_is_a_configuration_error(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "topics.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=complaint) as refused:
        load_declarations(file)
    assert refused.value.where == str(file)


def test_names_carry_the_prefix_both_ways() -> None:
    lab = TopicSet(prefix="lab.")
    assert lab.name(VM_STATE) == "lab.vm.state"
    assert lab.topic("lab.vm.state") == VM_STATE
    for stranger in ("vm.state", "lab.vm.other"):
        with pytest.raises(KeyError):
            lab.topic(stranger)
    with pytest.raises(KeyError):
        lab.name("vm.other")
