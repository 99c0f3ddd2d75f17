"""What a worker meets that it must not go on with: each ends it with its own code, and nothing is committed."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, ResourceType

from infra.runtime.kafka import make_admin, producer_config
from infra.runtime.settings import KafkaSettings
from infra.runtime.topics import HOST_REPORTS, HOSTS_TABLE, VM_OBSERVATIONS
from schemas.codec import decode, encode, header_of
from tests.integration.streams.counting import PARTITION_KEY, Counted, PartitionRow, Work
from tests.integration.streams.fleet import Line, commit_offsets

pytestmark = [pytest.mark.stack, pytest.mark.timeout(120)]


def _write_row(line: Line, partition: int, row: PartitionRow) -> None:
    headers = [("schema", header_of(PartitionRow))]
    line.producer.produce(line.topic(HOSTS_TABLE), encode(row), PARTITION_KEY, partition, headers=headers)
    assert line.producer.flush(10) == 0


def test_a_hole_in_the_input_ends_the_process_before_anything_later_is_applied(line: Line) -> None:
    """The end mark of a transaction takes an offset that no consumer ever sees."""
    line.write(0, [b"a"])
    line.producer.flush()
    transactional = Producer(producer_config(line.kafka, transactional_id=line.kafka.topic_prefix))
    transactional.init_transactions(10)
    transactional.begin_transaction()
    transactional.produce(
        line.topic(HOST_REPORTS), encode(Work(keys=[b"b"])), b"work", 0, headers=[("schema", header_of(Work))]
    )
    transactional.commit_transaction(10)
    while line.end(0) < 3:  # the broker writes the mark after it has answered
        time.sleep(0.05)
    line.write(0, [b"c"])
    line.producer.flush()
    worker = line.start()
    assert worker.wait(30) == 73
    assert "expected offset 2, got 3" in line.log()
    assert {message.key() for message in line.read(VM_OBSERVATIONS)} <= {b"a", b"b"}
    assert line.committed()[0] <= 2


def test_a_hole_below_the_start_of_the_log_is_a_gap(line: Line) -> None:
    line.start()
    line.wait_until_loaded()
    for _ in range(20):
        line.write(0, [b"a"])
    line.producer.flush()
    line.wait_until_done()
    assert line.stop() == 0
    for _ in range(20):
        line.write(0, [b"a"])
    line.producer.flush()
    admin = make_admin(line.kafka)
    cut = TopicPartition(line.topic(HOST_REPORTS), 0, 30)
    for future in admin.delete_records([cut]).values():
        future.result()
    line.start()
    line.wait_until_done()
    line.wait_for_log('"inputs_lost"')
    (lost,) = (text for text in line.log().splitlines() if '"inputs_lost"' in text)
    assert '"first_missing": 20' in lost
    assert '"next_offset": 30' in lost
    counts = [message for message in line.read(VM_OBSERVATIONS) if message.key() == b"a"]
    assert len(counts) == 30
    assert line.stop() == 0


def test_a_wrong_partition_count_is_refused_and_nothing_is_committed(line: Line) -> None:
    line.work(50)
    admin = make_admin(line.kafka)
    for future in admin.create_partitions([NewPartitions(line.topic(HOSTS_TABLE), 6)]).values():
        future.result()
    worker = line.start()
    assert worker.wait(30) == 75
    assert "has 6 partitions, this topic set has 4" in line.log()
    assert set(line.committed().values()) == {-1001}
    assert line.read(VM_OBSERVATIONS) == []


def test_a_newer_major_in_the_input_ends_the_process(line: Line) -> None:
    line.write(1, [b"a"])
    line.write(1, [b"b"], schema=b"Work/2.0")
    line.producer.flush()
    worker = line.start()
    assert worker.wait(30) == 74
    assert line.committed()[1] <= 1
    assert "Work/2.0 was written by another major version" in line.log()


def test_a_newer_major_in_the_table_ends_the_process(line: Line) -> None:
    headers = [("schema", b"CountPartition/2.0")]
    line.producer.produce(line.topic(HOSTS_TABLE), b"\x80", PARTITION_KEY, 2, headers=headers)
    line.producer.flush()
    line.write(2, [b"a"])
    line.producer.flush()
    worker = line.start()
    assert worker.wait(30) == 74
    assert set(line.committed().values()) == {-1001}


def test_an_input_log_made_anew_is_refused(line: Line) -> None:
    """The table knows more of the log than there is: every record would look like a repeat."""
    _write_row(line, 3, PartitionRow(applied=41, ticks=0))
    line.write(3, [b"a"])
    line.producer.flush()
    worker = line.start()
    assert worker.wait(30) == 75
    assert "the log ends at offset 1, but everything below 42 was applied already" in line.log()


def test_inputs_that_were_acknowledged_but_are_not_in_the_table_are_applied_again(line: Line) -> None:
    """The table's log lost its end. What the table says counts, not the group."""
    line.work(200)
    for partition in range(line.partitions):
        _write_row(line, partition, PartitionRow(applied=-1 if partition else 9, ticks=0))
    commit_offsets(line, dict.fromkeys(range(line.partitions), 30))
    line.start()
    line.wait_until_done()
    assert line.stop() == 0
    offsets = {partition: set[int]() for partition in range(line.partitions)}
    for message in line.read(VM_OBSERVATIONS):
        value = message.value()
        assert isinstance(value, bytes)
        output = decode(Counted, value, header_of(Counted))
        offsets[output.partition].add(output.offset)
    # Below the table's offset nothing is applied; without a row, nothing below the group's.
    assert {partition: min(found) for partition, found in offsets.items()} == {0: 10, 1: 30, 2: 30, 3: 30}


def test_a_topic_that_takes_only_small_records_is_refused(line: Line) -> None:
    _lower_limit(line)
    worker = line.start()
    assert worker.wait(30) == 75
    assert "has max.message.bytes=100000, but needs at least" in line.log()


def _lower_limit(line: Line) -> None:
    entry = ConfigEntry("max.message.bytes", "100000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, line.topic(HOSTS_TABLE), incremental_configs=[entry])
    admin = make_admin(line.kafka)
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()


def test_an_unreachable_broker_is_tried_again_and_given_up(tmp_path: Path) -> None:
    line = Line(kafka=KafkaSettings(bootstrap="127.0.0.1:9", topic_prefix="none."), directory=tmp_path)
    started_at = time.monotonic()
    try:
        worker = line.start()
        assert worker.wait(40) == 69
        assert time.monotonic() - started_at > 3
        assert "no broker answered" in line.log()
    finally:
        line.close()


def test_ticks_are_written_one_a_second_and_count(line: Line) -> None:
    line.ticks = "own"
    line.start()
    line.wait_until_loaded()
    time.sleep(6)
    ready = line.get("/readyz")
    assert line.stop(number=signal.SIGTERM) == 0
    assert '"ok": true' in ready
    ticks = [message for message in line.read(HOST_REPORTS) if message.key() == b"#tick"]
    by_partition = dict.fromkeys(range(line.partitions), 0)
    for message in ticks:
        partition = message.partition()
        assert partition is not None
        by_partition[partition] += 1
    assert all(4 <= count <= 7 for count in by_partition.values()), by_partition
    rows = [message for message in line.read(HOSTS_TABLE) if message.key() == PARTITION_KEY]
    # Quiet work rides together: about one row per partition and second.
    assert len(rows) <= 4 * 8
    line.start()
    line.wait_until_loaded(times=2)
    time.sleep(3)
    assert line.stop() == 0
    assert "worker_failed" not in line.log()
