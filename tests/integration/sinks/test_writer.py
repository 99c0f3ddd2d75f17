"""The writer against a real PostgreSQL: what batches leave in the tables, and what is refused."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec
import psycopg
import pytest
from psycopg import sql

from infra.runtime.errors import DatabaseRefused, SelfFenced, TooManyBad, TransientError
from schemas.codec import encode, header_of
from schemas.facets.identity import Identity
from schemas.host_change import HostChange
from schemas.vm_change import VmChange
from sinks.postgres.coalesce import Missing
from sinks.postgres.columns import TABLES
from sinks.postgres.connection import connect as connect_sink
from sinks.postgres.incoming import read_change
from sinks.postgres.plan import Batch, Span
from sinks.postgres.roles import SINK_PRIVILEGES
from sinks.postgres.schema import check_schema, migrate_database
from sinks.postgres.settings import Database, RoleSettings
from sinks.postgres.statements import COUNT_IN_ONE_STATEMENT_SINCE
from sinks.postgres.writer import Standing, Writer, Written
from tests.integration.sinks.conftest import Admin, connect
from tests.integration.sinks.rows import assert_tables_hold, signed
from tests.unit.sinks.change_log import change_log, host_log

pytestmark = pytest.mark.stack

VMS, HOSTS = "vm.changes", "host.changes"
TOPIC_ID = "c10a7e28-ba87-42f0-b7f8-f54ba8f66ec8"

MakeWriter = Callable[[], Writer]


class Feed:
    """Writes a log as one partition would hand it to one owner."""

    def __init__(self, writer: Writer, partition: int = 0) -> None:
        self.writer = writer
        self.partition = partition
        self.epoch, self.offset, _ = writer.take(VMS, partition, TOPIC_ID, 0)

    def batch(self, changes: Sequence[VmChange]) -> Batch:
        """The next changes as a batch; does not move on."""
        end = self.offset + len(changes)
        span = Span(topic=VMS, partition=self.partition, epoch=self.epoch, expected=self.offset, next_offset=end)
        header = header_of(VmChange)
        items = [
            read_change(VmChange, encode(change), header, topic=VMS, partition=self.partition, offset=self.offset + n)
            for n, change in enumerate(changes)
        ]
        return Batch(spans=(span,), vms=tuple(items))

    def write(self, changes: Sequence[VmChange]) -> Written:
        """Write the next changes and move on."""
        batch = self.batch(changes)
        written = self.writer.write(batch, self.writer.prepare(batch))
        self.offset += len(changes)
        return written


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("server_version", [COUNT_IN_ONE_STATEMENT_SINCE, COUNT_IN_ONE_STATEMENT_SINCE - 1])
def test_any_log_with_repeats_ends_as_its_fold(
    make_writer: MakeWriter, admin: Admin, seed: int, server_version: int
) -> None:
    """Both forms of the head statement: for PostgreSQL 18, and the one that 15 to 17 understand."""
    chance = random.Random(seed)
    log = list(change_log(seed, vms=8, changes=600, removals=0.05))
    feed = Feed(make_writer())
    feed.writer.server_version = server_version
    cuts = [0]
    while cuts[-1] < len(log):
        cuts.append(min(len(log), cuts[-1] + chance.choice((1, 3, 20, 150))))
    slow = 0
    for begin, end in pairwise(cuts):
        first = max(0, begin - chance.choice((0, 0, 0, 5, 40)))
        slow += feed.write(log[first:end]).slow
    assert_tables_hold(admin, log)
    assert slow > 0


def test_a_batch_that_is_all_new_reads_nothing(make_writer: MakeWriter, admin: Admin) -> None:
    feed = Feed(make_writer())
    log = list(change_log(1, vms=5, changes=200))
    assert not any(feed.write(log[begin : begin + 50]).slow for begin in range(0, 200, 50))
    assert_tables_hold(admin, log)


def test_five_hundred_vms_are_born(make_writer: MakeWriter, admin: Admin) -> None:
    log = [change for seed in range(500) for change in change_log(seed, vms=1, changes=1)]
    assert Feed(make_writer()).write(log) == Written(changes=500)
    assert_tables_hold(admin, log)


def test_hosts_are_written_with_vms(make_writer: MakeWriter, admin: Admin) -> None:
    writer = make_writer()
    log = list(host_log(1, hosts=3, changes=90))
    epoch, start, _ = writer.take(HOSTS, 0, TOPIC_ID, 0)
    header = header_of(HostChange)
    for begin in range(0, 90, 30):
        items = [
            read_change(HostChange, encode(log[n]), header, topic=HOSTS, partition=0, offset=n)
            for n in range(begin, begin + 30)
        ]
        span = Span(topic=HOSTS, partition=0, epoch=epoch, expected=start + begin, next_offset=start + begin + 30)
        batch = Batch(spans=(span,), hosts=tuple(items))
        assert writer.write(batch, writer.prepare(batch)).changes == 30
    last = {change.host_id: change for change in log}
    rows = admin.execute("SELECT host_id::text, version, digest, reachability, confirmed, flags FROM host").fetchall()
    assert sorted(rows) == sorted(
        (key, one.version, signed(one.state_digest), one.reachability.state.value, one.confirmed, one.flags)
        for key, one in last.items()
    )
    counted = "SELECT count(*), count(DISTINCT (host_id, version)) FROM host_change"
    assert admin.execute(counted).fetchone() == (90, 90)
    overview = admin.execute("SELECT count(*), count(hostname) FROM host_overview").fetchone()
    assert overview == (3, 3)


def test_a_zombie_is_fenced_and_leaves_nothing(make_writer: MakeWriter, admin: Admin) -> None:
    """Fault S6: the old owner still has a batch in its hands when another takes the partition over."""
    log = list(change_log(2, vms=3, changes=60))
    zombie = Feed(make_writer())
    zombie.write(log[:20])
    owner = Feed(make_writer())
    assert (owner.offset, owner.epoch) == (20, zombie.epoch + 1)
    with pytest.raises(SelfFenced):
        zombie.write(log[20:40])
    owner.write(log[20:])
    with pytest.raises(SelfFenced):
        zombie.write(log[20:40])
    assert_tables_hold(admin, log)


def test_a_stale_offset_is_fenced(make_writer: MakeWriter, admin: Admin) -> None:
    log = list(change_log(3, vms=3, changes=40))
    feed = Feed(make_writer())
    feed.write(log[:20])
    feed.offset = 0
    with pytest.raises(SelfFenced):
        feed.write(log[:20])
    feed.offset = 20
    feed.write(log[20:])
    assert_tables_hold(admin, log)


def test_a_frozen_zombie_does_not_hold_its_successor_up(
    make_writer: MakeWriter, database: Database, admin: Admin
) -> None:
    log = list(change_log(4, vms=3, changes=20))
    zombie = Feed(make_writer())
    connection = zombie.writer.open()
    connection.execute("SET idle_in_transaction_session_timeout = '500ms'")
    connection.execute("BEGIN")
    connection.execute("UPDATE sink_position SET next_offset = 20 WHERE topic = %s", (VMS,))
    owner = Feed(make_writer())  # waits for the row until the server ends the zombie's transaction
    assert owner.offset == 0
    owner.write(log)
    assert_tables_hold(admin, log)


def test_a_missing_change_stops_and_writes_nothing(make_writer: MakeWriter, admin: Admin) -> None:
    log = list(change_log(5, vms=1, changes=10, removals=0))
    feed = Feed(make_writer())
    feed.write(log[:3])
    with pytest.raises(Missing, match=log[0].vm_id):
        feed.write(log[4:])
    assert_tables_hold(admin, log[:3])
    assert feed.writer.standing(feed.batch(log[4:]).spans) is Standing.NOT_COMMITTED


def test_a_new_day_gets_its_partition(make_writer: MakeWriter, admin: Admin) -> None:
    day_ns = 86_400_000_000_000
    log = [
        msgspec.structs.replace(change, detected_at=change.detected_at + number * 10 * day_ns)
        for number, change in enumerate(change_log(6, vms=1, changes=5, removals=0))
    ]
    Feed(make_writer()).write(log)
    assert_tables_hold(admin, log)


def test_a_partition_dropped_under_our_feet_is_no_bad_data(make_writer: MakeWriter, admin: Admin) -> None:
    log = list(change_log(7, vms=2, changes=20, removals=0))
    feed = Feed(make_writer())
    feed.write(log[:10])
    row = admin.execute("SELECT tableoid::regclass::text FROM vm_change LIMIT 1").fetchone()
    assert row is not None
    admin.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(row[0])))
    with pytest.raises(TransientError, match="partition"):
        feed.write(log[10:])
    feed.write(log[10:])
    assert admin.execute("SELECT count(*) FROM vm_change").fetchone() == (10,)


def test_partitions_are_made_while_rows_are_copied(make_writer: MakeWriter, database: Database, admin: Admin) -> None:
    """A new day must not wait for a running transaction, nor stop one."""
    log = list(change_log(8, vms=2, changes=20))
    writer = make_writer()
    feed = Feed(writer)
    feed.write(log[:10])
    with connect(database) as other, other.transaction(force_rollback=True):
        other.execute("INSERT INTO vm_change SELECT * FROM vm_change")
        admin.execute("SET lock_timeout = '2s'")
        assert admin.execute("SELECT ensure_partitions('2031-01-01', '2031-01-02')").fetchone() == (4,)
    feed.write(log[10:])
    assert_tables_hold(admin, log)


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_commit_of_unknown_outcome_is_settled(make_writer: MakeWriter, admin: Admin, cut: str) -> None:
    """Fault S4: the connection is gone, and only the position says whether the batch is there."""
    log = list(change_log(9, vms=2, changes=20))
    feed = Feed(make_writer())
    batch = feed.batch(log)
    if cut == "after":
        feed.writer.write(batch, feed.writer.prepare(batch))
    _cut_connections(admin)
    with pytest.raises(TransientError):
        feed.writer.standing(batch.spans)
    assert feed.writer.standing(batch.spans) is (Standing.COMMITTED if cut == "after" else Standing.NOT_COMMITTED)
    if cut == "before":
        feed.writer.write(batch, feed.writer.prepare(batch))
    assert_tables_hold(admin, log)


def _cut_connections(admin: Admin) -> None:
    admin.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


def test_a_lock_held_by_an_operator_is_waited_for(make_writer: MakeWriter, database: Database, admin: Admin) -> None:
    log = list(change_log(10, vms=2, changes=20))
    feed = Feed(make_writer())
    feed.write(log[:10])
    feed.writer.open().execute("SET lock_timeout = '200ms'")
    with connect(database) as operator, operator.transaction():
        operator.execute("LOCK TABLE vm IN SHARE MODE")
        with pytest.raises(TransientError, match="55P03"):
            feed.write(log[10:])
    feed.write(log[10:])
    assert_tables_hold(admin, log)


@pytest.mark.parametrize(
    "damage",
    [
        "DROP TABLE vm_identity CASCADE",
        "ALTER TABLE vm DROP COLUMN cause",
        "REVOKE INSERT ON vm_change FROM deltavisor_sink",
    ],
)
def test_a_schema_that_is_not_ours_stops_the_sink(make_writer: MakeWriter, admin: Admin, damage: str) -> None:
    """Fault S13: nothing is committed, and the message says what to do."""
    log = list(change_log(11, vms=2, changes=20))
    feed = Feed(make_writer())
    admin.execute(damage.encode())
    with pytest.raises(DatabaseRefused, match=r"42\w{3}.*deltavisor db"):
        feed.write(log)
    assert admin.execute("SELECT next_offset FROM sink_position").fetchone() == (0,)


def test_a_constraint_of_somebody_else_stops_and_names_itself(make_writer: MakeWriter, admin: Admin) -> None:
    admin.execute("ALTER TABLE vm ADD CONSTRAINT odd CHECK (version < 0)")
    feed = Feed(make_writer())
    with pytest.raises(TooManyBad, match="constraint odd"):
        feed.write(list(change_log(12, vms=2, changes=20)))
    assert admin.execute("SELECT count(*) FROM vm_change").fetchone() == (0,)


@pytest.mark.parametrize("name", ["'; DROP TABLE vm; --", "quote \" ' \\ {} \t\n", "🙂" * 255, "a\0b", ""])
def test_hostile_text_is_only_text(make_writer: MakeWriter, admin: Admin, name: str) -> None:
    (change,) = change_log(13, vms=1, changes=1)
    identity = Identity(name=name, tags={name: name})
    hostile = msgspec.structs.replace(
        change.facets["identity"], after=msgspec.Raw(msgspec.msgpack.encode(identity)), changed=[name.replace("\0", "")]
    )
    change = msgspec.structs.replace(change, facets={**change.facets, "identity": hostile})
    Feed(make_writer()).write([change])
    assert_tables_hold(admin, [change])


def test_the_sinks_role_can_do_no_more_than_it_needs(make_writer: MakeWriter) -> None:
    connection = make_writer().open()
    for statement in (
        "CREATE TABLE mine (a int)",
        "ALTER TABLE vm ADD COLUMN mine int",
        "DROP TABLE vm_guest",
        "DELETE FROM vm",
        "DELETE FROM vm_managed",
        "SELECT * FROM vm_change",
        "UPDATE vm_change SET version = 0",
        "DELETE FROM vm_change",
        "TRUNCATE vm_change",
        "DELETE FROM sink_position",
        "UPDATE schema_migration SET name = ''",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement.encode())


def test_the_readers_role_only_reads(database: Database) -> None:
    reader = connect_sink(msgspec.structs.replace(database, role="deltavisor_reader"), application_name="test")
    with reader:
        for name in (*TABLES, "vm_overview", "host_overview", "vm_guest_nic", "vm_device", "fleet_summary"):
            reader.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(name)))
        assert reader.execute("SELECT * FROM vm_as_of(now())").fetchall() == []
        for name in TABLES:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(name)))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("SELECT ensure_partitions('2031-01-01', '2031-01-01')")


def test_as_of_shows_what_was_known_then(make_writer: MakeWriter, admin: Admin) -> None:
    log = list(change_log(14, vms=4, changes=120))
    feed = Feed(make_writer())
    feed.write(log)
    then = log[70].detected_at
    wanted = {change.vm_id: change.version for change in log if change.detected_at <= then}
    rows = admin.execute(
        "SELECT vm_id::text, version FROM vm_as_of(to_timestamp(%s / 1e6) + interval '0.4 us')", (then // 1000,)
    )
    assert dict(rows.fetchall()) == wanted


def test_migrating_twice_at_once(empty: Database) -> None:
    failures: list[BaseException] = []

    def migrate() -> None:
        try:
            migrate_database(empty, RoleSettings())
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=migrate) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with connect_sink(empty, application_name="test") as connection:
        check_schema(connection, "here")
        owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public' AND tablename = ANY (%s)"
        assert connection.execute(owners, (list(SINK_PRIVILEGES),)).fetchall() == [("deltavisor_migrator",)]
        comments = "SELECT relname FROM pg_class WHERE relname = ANY (%s) AND obj_description(oid) IS NULL"
        assert connection.execute(comments, (list(TABLES),)).fetchall() == []


def test_a_database_that_was_not_migrated_is_refused(empty: Database) -> None:
    with connect_sink(empty, application_name="test") as connection, pytest.raises(DatabaseRefused, match="db migrate"):
        check_schema(connection, "here")
