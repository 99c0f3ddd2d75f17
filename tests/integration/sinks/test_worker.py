"""The sink's process between real Kafka and real PostgreSQL: exactly once, whatever is killed or cut."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psycopg
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from infra.runtime.errors import ExitCode
from infra.runtime.kafka import admin_config, make_consumer
from infra.runtime.settings import KafkaSettings
from infra.runtime.topics import VM_CHANGES, TopicAdmin
from infra.stack.endpoints import Endpoints
from infra.stack.settings import StackSettings
from infra.stack.stack import Stack
from schemas.vm_change import VmChange
from sinks.postgres.settings import Database, PostgresSettings
from tests.integration.sinks.conftest import PARTITIONS, Admin, connect
from tests.integration.sinks.process import WAIT_SECONDS, Feeder, SinkProcess, rows_in, wait_until
from tests.integration.sinks.rows import assert_tables_hold
from tests.unit.sinks.change_log import change_log

pytestmark = pytest.mark.stack

MakeSink = Callable[..., SinkProcess]


@pytest.fixture
def make_sink(tmp_path: Path, settings: PostgresSettings, password_file: Path) -> Iterator[MakeSink]:
    made: list[SinkProcess] = []

    def make(name: str = "sink", other: PostgresSettings | None = None) -> SinkProcess:
        made.append(SinkProcess(tmp_path, other or settings, password_file, name))
        return made[-1]

    yield make
    for sink in made:
        sink.close()


@pytest.fixture
def feeder(settings: PostgresSettings) -> Feeder:
    return Feeder(settings)


def ready(sink: SinkProcess) -> None:
    wait_until(lambda: sink.has_logged("partitions_taken"))


def test_every_change_is_stored_and_rows_are_the_last(
    make_sink: MakeSink, feeder: Feeder, admin: Admin, settings: PostgresSettings
) -> None:
    log = list(change_log(1, vms=40, changes=2_000))
    feeder.publish(log[:500])
    sink = make_sink().start()
    feeder.publish(log[500:])
    wait_until(lambda: rows_in(admin) == len(log))
    assert sink.stop() == ExitCode.OK
    assert_tables_hold(admin, log)
    positions = admin.execute("SELECT sum(next_offset) FROM sink_position").fetchone()
    assert positions == (len(log),)
    assert sum(committed(settings)) == len(log)


def committed(settings: PostgresSettings) -> list[int]:
    """The group's offsets in Kafka, which only tell others how far behind the sink is."""
    consumer = make_consumer(settings.kafka, group_id=settings.group)
    topic = settings.kafka.topic_prefix + VM_CHANGES
    try:
        found = consumer.committed([TopicPartition(topic, part) for part in range(PARTITIONS)], timeout=10)
        return [max(0, partition.offset) for partition in found]
    finally:
        consumer.close()


def test_a_stable_fleet_costs_nothing(make_sink: MakeSink, feeder: Feeder, admin: Admin) -> None:
    """Without changes nothing is written and nothing asked: the sink's connection does not move."""
    log = list(change_log(2, vms=10, changes=100))
    feeder.publish(log)
    make_sink().start()
    wait_until(lambda: rows_in(admin) == len(log))
    time.sleep(1)
    query = "SELECT state_change FROM pg_stat_activity WHERE application_name = 'deltavisor-sink-postgres'"
    before = admin.execute(query).fetchall()
    time.sleep(3)
    assert admin.execute(query).fetchall() == before
    assert len(before) == 1


@pytest.mark.slow
def test_killed_at_any_moment_nothing_is_lost_or_doubled(make_sink: MakeSink, feeder: Feeder, admin: Admin) -> None:
    """Faults S1, S2, S3, S5: SIGKILL under load, again and again."""
    chance = random.Random(3)
    log = list(change_log(3, vms=60, changes=6_000))
    sink = make_sink()
    publisher = threading.Thread(target=_publish_slowly, args=(feeder, log))
    publisher.start()
    kills = 0
    while publisher.is_alive() or rows_in(admin) < len(log):
        sink.start()
        before = rows_in(admin)
        wait_until(lambda before=before: rows_in(admin) > before or rows_in(admin) == len(log))  # type: ignore[misc]
        time.sleep(chance.uniform(0, 0.4))
        sink.kill()
        kills += 1
    publisher.join()
    sink.start()
    wait_until(lambda: rows_in(admin) == len(log))
    assert_tables_hold(admin, log)
    assert kills >= 3


def _publish_slowly(feeder: Feeder, log: list[VmChange]) -> None:
    for begin in range(0, len(log), 20):
        feeder.publish(log[begin : begin + 20])
        time.sleep(0.04)


@pytest.mark.slow
def test_a_process_that_stood_still_is_fenced(make_sink: MakeSink, feeder: Feeder, admin: Admin) -> None:
    """Fault S6: stopped under load past its session, its partitions move; when it wakes it may not write."""
    log = list(change_log(4, vms=30, changes=3_000))
    first = make_sink("first").start()
    ready(first)
    feeder.publish(log[:1_000])
    first.send(signal.SIGSTOP)
    feeder.publish(log[1_000:2_000])
    second = make_sink("second").start()
    wait_until(lambda: rows_in(admin) == 2_000)
    first.send(signal.SIGCONT)
    feeder.publish(log[2_000:])
    wait_until(lambda: rows_in(admin) == len(log))
    assert_tables_hold(admin, log)
    assert second.process.poll() is None
    # It was either fenced in the act, and ended, or had nothing in its hands and joined the group anew.
    assert first.process.poll() in (None, ExitCode.SELF_FENCED)


@pytest.mark.slow
def test_partitions_move_between_workers_under_load(make_sink: MakeSink, feeder: Feeder, admin: Admin) -> None:
    log = list(change_log(5, vms=60, changes=3_000))
    publisher = threading.Thread(target=_publish_slowly, args=(feeder, log))
    publisher.start()
    first = make_sink("first").start()
    ready(first)
    second = make_sink("second").start()
    ready(second)
    assert first.stop() == ExitCode.OK
    publisher.join()
    wait_until(lambda: rows_in(admin) == len(log))
    assert second.stop() == ExitCode.OK
    assert_tables_hold(admin, log)


def test_cut_connections_are_made_anew(make_sink: MakeSink, feeder: Feeder, admin: Admin) -> None:
    """Faults S4, S14: every connection of the sink is cut, again and again, while it writes."""
    log = list(change_log(6, vms=30, changes=2_000))
    sink = make_sink().start()
    ready(sink)
    for begin in range(0, len(log), 100):
        feeder.publish(log[begin : begin + 100])
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            ("deltavisor-sink-postgres",),
        )
    wait_until(lambda: rows_in(admin) == len(log))
    assert_tables_hold(admin, log)
    assert sink.stop() == ExitCode.OK
    assert sink.has_logged("write_retry")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
def test_a_restart_of_the_database_is_sat_out(
    make_sink: MakeSink,
    feeder: Feeder,
    database: Database,
    endpoints: Endpoints,
    how: signal.Signals,
) -> None:
    """Fault S7: nobody gives up while the database is away, and nothing is lost or doubled."""
    log = list(change_log(7, vms=30, changes=2_000))
    sink = make_sink().start()
    ready(sink)
    feeder.publish(log[:500])
    stack = Stack(f"test-{os.getpid()}", settings=StackSettings(durable=False))
    pid = stack.up(services={"kafka", "postgres"}).pids["postgres"]
    os.kill(pid, how)
    feeder.publish(log[500:1_500])
    wait_until(lambda: sink.has_logged("write_retry"))
    stack.up(services={"kafka", "postgres"})
    feeder.publish(log[1_500:])
    with connect(database) as admin:
        wait_until(lambda: rows_in(admin) == len(log))
        assert_tables_hold(admin, log)
    assert sink.stop() == ExitCode.OK


def test_a_bad_record_stops_the_sink_and_names_its_place(
    make_sink: MakeSink, feeder: Feeder, admin: Admin, settings: PostgresSettings
) -> None:
    (change,) = change_log(8, vms=1, changes=1)
    feeder.publish([msgspec.structs.replace(change, ownership_epoch=1 << 63)])
    sink = make_sink().start()
    assert sink.wait() == ExitCode.TOO_MANY_BAD
    assert sink.has_logged(f"{settings.kafka.topic_prefix}vm.changes[")
    assert rows_in(admin) == 0


def test_a_missing_table_is_said_in_a_sentence(make_sink: MakeSink, admin: Admin) -> None:
    admin.execute("DROP TABLE vm_numa")
    sink = make_sink().start()
    assert sink.wait() == ExitCode.DATABASE_REFUSED
    assert sink.has_logged("table vm_numa is missing")


def test_a_table_that_goes_missing_stops_it(make_sink: MakeSink, feeder: Feeder, admin: Admin) -> None:
    sink = make_sink().start()
    ready(sink)
    admin.execute("DROP TABLE vm_identity CASCADE")
    feeder.publish(list(change_log(9, vms=1, changes=1)))
    assert sink.wait() == ExitCode.DATABASE_REFUSED
    assert sink.has_logged("deltavisor db migrate")
    assert admin.execute("SELECT sum(next_offset) FROM sink_position").fetchone() == (0,)


@pytest.mark.parametrize("what", ["kafka", "postgres"])
def test_a_server_that_does_not_answer_is_given_up(make_sink: MakeSink, settings: PostgresSettings, what: str) -> None:
    nowhere = "127.0.0.1:1"
    if what == "kafka":
        other = settings.model_copy(update={"kafka": KafkaSettings(bootstrap=nowhere)})
    else:
        dsn = psycopg.conninfo.make_conninfo(settings.dsn, host="127.0.0.1", port="1")
        other = settings.model_copy(update={"dsn": dsn})
    sink = make_sink(other=other).start()
    assert sink.wait() == ExitCode.UNREACHABLE
    assert sink.has_logged("setup_retry")
    assert sink.has_logged("deltavisor stack up")


def test_a_topic_made_anew_is_not_taken_for_the_old_one(
    make_sink: MakeSink, feeder: Feeder, admin: Admin, settings: PostgresSettings
) -> None:
    log = list(change_log(10, vms=3, changes=50))
    feeder.publish(log)
    sink = make_sink().start()
    wait_until(lambda: rows_in(admin) == len(log))
    assert sink.stop() == ExitCode.OK
    broker = AdminClient(admin_config(settings.kafka))
    for future in broker.delete_topics([settings.kafka.topic_prefix + VM_CHANGES]).values():
        future.result()
    wait_until(lambda: _created(settings))
    sink.start()
    assert sink.wait() == ExitCode.TOPIC_MISMATCH
    assert sink.has_logged("made again")


def _created(settings: PostgresSettings) -> bool:
    return bool(TopicAdmin(settings.kafka, settings.topics).apply((VM_CHANGES,)).created)


def test_check_only_looks(make_sink: MakeSink, admin: Admin) -> None:
    sink = make_sink().start("--check")
    assert sink.wait(WAIT_SECONDS) == ExitCode.OK
    assert admin.execute("SELECT count(*) FROM sink_position").fetchone() == (0,)
