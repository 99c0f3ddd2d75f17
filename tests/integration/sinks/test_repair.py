"""Changes that are gone from the topic: the sink takes whole states from vm.state, and never ends for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import TopicPartition

from infra.runtime.errors import ExitCode
from infra.runtime.kafka import make_admin, make_producer
from infra.runtime.topics import VM_CHANGES, VM_STATE, TopicAdmin
from schemas.codec import encode, header_of
from schemas.facets.normal import normal_form
from schemas.ids import partition_of
from schemas.vm_change import VmChange
from schemas.vm_state import VmFacet, VmHead
from sinks.postgres.incoming import typed_facet
from sinks.postgres.settings import PostgresSettings
from tests.integration.sinks.conftest import PARTITIONS, Admin
from tests.integration.sinks.process import Feeder, SinkProcess, rows_in, wait_until
from tests.integration.sinks.rows import Wanted, table
from tests.unit.sinks.change_log import change_log

pytestmark = pytest.mark.stack

HOST = "00000000-0000-0000-0000-000000000001"


@pytest.fixture
def sink(tmp_path: Path, settings: PostgresSettings, password_file: Path) -> Iterator[SinkProcess]:
    TopicAdmin(settings.kafka, settings.topics).apply((VM_STATE,))
    process = SinkProcess(tmp_path, settings, password_file)
    yield process
    process.close()


def owned(log: Sequence[VmChange]) -> list[VmChange]:
    """The same changes, each with an owner, as VMs with facets have."""
    return [msgspec.structs.replace(change, host_id=HOST, managed=None) for change in log]


def publish_state(settings: PostgresSettings, log: Sequence[VmChange]) -> None:
    """vm.state as the stage leaves it after this log."""
    producer = make_producer(settings.kafka)
    last: dict[str, VmChange] = {}
    facets: dict[str, dict[str, bytes]] = {}
    for change in log:
        last[change.vm_id] = change
        own = facets.setdefault(change.vm_id, {})
        if change.version == 1 or change.status == "removed":
            own.clear()
        for name, facet in change.facets.items():
            own.pop(name, None)
            if not facet.cleared:
                own[name] = bytes(facet.after)
    for vm_id, change in last.items():
        marks = {}
        place = {
            "topic": settings.kafka.topic_prefix + VM_STATE,
            "partition": partition_of(vm_id.encode(), PARTITIONS),
        }
        for name, value in facets[vm_id].items():
            marks[name] = normal_form(typed_facet(name, value))[0]
            row = VmFacet(
                incarnation=change.incarnation, version=change.version, applied=1, fingerprint=marks[name], value=value
            )
            key = f"{vm_id}/{HOST}/{name}".encode()
            producer.produce(**place, key=key, value=encode(row), headers={"schema": header_of(VmFacet)})
        head = VmHead(
            vm_id=vm_id,
            incarnation=change.incarnation,
            version=change.version,
            status=change.status,
            availability=change.availability,
            host_id=change.host_id,
            ownership_epoch=change.ownership_epoch,
            run_id=change.run_id,
            exit=change.exit,
            observed_at=change.observed_at,
            detected_at=change.detected_at,
            digest=change.state_digest,
            applied=1,
            facets=marks,
        )
        producer.produce(**place, key=vm_id.encode(), value=encode(head), headers={"schema": header_of(VmHead)})
    assert producer.flush(30) == 0


def rows_differ(admin: Admin, log: Sequence[VmChange]) -> list[str]:
    """VMs whose rows are not the fold of the log; causes and times of change apart."""
    wanted = Wanted(log)
    found = []
    for row in table(admin, "vm", ["vm_id"]):
        right = wanted.heads[str(row["vm_id"])]
        found += [f"{row['vm_id']}: {name}" for name in right if name != "cause" and row[name] != right[name]]
    for name, rows in wanted.facets.items():
        stored = {str(row["vm_id"]): row for row in table(admin, f"vm_{name}", ["vm_id"])}
        for row in (*stored.values(), *rows.values()):
            row.pop("changed_at")
        if stored != rows:
            found.append(f"vm_{name}")
    return found


def causes(admin: Admin) -> dict[str, int]:
    return dict(admin.execute("SELECT cause, count(*) FROM vm_change GROUP BY cause").fetchall())


def committed(admin: Admin, settings: PostgresSettings, records: int) -> Callable[[], bool]:
    query = "SELECT coalesce(sum(next_offset), 0) FROM sink_position WHERE topic = %s"
    topic = settings.kafka.topic_prefix + VM_CHANGES
    return lambda: admin.execute(query, (topic,)).fetchone() == (records,)


def test_a_hole_waits_for_a_state_as_new_and_takes_it_whole(
    sink: SinkProcess, admin: Admin, settings: PostgresSettings
) -> None:
    log = owned(list(change_log(21, vms=6, changes=200)))
    victim = log[-1].vm_id
    missing = [change for change in log if change.vm_id == victim][-3]
    there = [change for change in log if change is not missing]
    Feeder(settings).publish(there)
    sink.start()
    wait_until(lambda: sink.has_logged("no state as new is there yet"))
    assert sink.process.poll() is None
    publish_state(settings, log)
    wait_until(committed(admin, settings, len(there)))
    assert rows_differ(admin, log) == []
    assert causes(admin)["repaired"] == 1
    assert sink.stop() == ExitCode.OK


def test_b5_changes_below_the_start_of_the_topic_are_replaced_by_states(
    sink: SinkProcess, admin: Admin, settings: PostgresSettings
) -> None:
    """Also of VMs of which nothing more is heard."""
    log = owned(list(change_log(22, vms=12, changes=400)))
    quiet = {change.vm_id for change in log[:6]}
    feeder = Feeder(settings)
    feeder.publish(log[:100])
    sink.start()
    wait_until(lambda: rows_in(admin) == 100)
    assert sink.stop() == ExitCode.OK
    feeder.publish(log[100:300])
    kafka = make_admin(settings.kafka)
    topic = settings.kafka.topic_prefix + VM_CHANGES
    for future in kafka.delete_records([TopicPartition(topic, part, -1) for part in range(PARTITIONS)]).values():
        future.result(30)
    rest = [change for change in log[300:] if change.vm_id not in quiet]
    kept = [*log[:300], *rest]
    publish_state(settings, kept)
    feeder.publish(rest)
    sink.start()
    wait_until(committed(admin, settings, len(kept)))
    assert rows_differ(admin, kept) == []
    assert causes(admin)["repaired"] >= 1
    assert sink.has_logged("changes_gone")
    assert sink.stop() == ExitCode.OK
