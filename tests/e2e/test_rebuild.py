"""Topics deleted, created again, everything in Kafka lost: each ends in agreement by the documented command."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from infra.agreement.compare import truth_of
from infra.agreement.topics import messages
from infra.demo.measure import current_rows, history_rows
from infra.rebuild.job import Fleet as Place
from infra.rebuild.job import plan_rebuild, run_rebuild
from infra.rebuild.workers import require_stopped
from infra.runtime.errors import FatalError
from infra.runtime.kafka import make_admin
from infra.runtime.settings import Secret
from infra.runtime.topics import (
    ALL_TOPICS,
    HOST_CHANGES,
    HOST_REPORTS,
    HOST_STATE,
    HOSTS_TABLE,
    VM_CHANGES,
    VM_OBSERVATIONS,
    VM_STATE,
    TopicAdmin,
)
from infra.stack.endpoints import Endpoints
from producers.simulator.fleet import Fleet
from schemas.codec import SCHEMA_HEADER, decode
from schemas.ids import uuid_text
from schemas.vm_state import VmHead
from sinks.postgres.settings import Database
from tests.e2e.line import FleetInTest, WholeLine

pytestmark = [pytest.mark.stack, pytest.mark.slow]

SETTLE_SECONDS = 90.0
REPOSITORY = Path(__file__).resolve().parents[2]


class Disaster:
    """What happens to a line, and the commands that mend it."""

    def __init__(self, line: WholeLine, endpoints: Endpoints) -> None:
        self.line = line
        self._password_file = endpoints.secrets_dir / "postgres"
        self.place = Place(
            kafka=line.kafka,
            topics=line.options.topics,
            database=Database(dsn=line.endpoints.postgres, password=Secret(self._password_file.read_text().strip())),
            sink_group=f"{line.options.topic_prefix}deltavisor-sink-postgres",
        )

    def delete(self, topics: Sequence[str]) -> None:
        """Delete topics, and wait until they are gone."""
        admin = make_admin(self.line.kafka)
        names = [self.line.topics.name(topic) for topic in topics]
        for future in admin.delete_topics(names).values():
            future.result(30)
        self.line.until(lambda: not TopicAdmin(self.line.kafka, self.line.options.topics).find(topics), 30.0, "deleted")

    def forget_groups(self) -> None:
        """A broker whose data is gone knows no group either."""
        require_stopped(self.line.kafka, self.place.groups)
        admin = make_admin(self.line.kafka)
        for future in admin.delete_consumer_groups(self.place.groups).values():
            try:
                future.result(30)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
                    raise

    def create(self) -> None:
        """What `deltavisor topics apply` does."""
        self.line.until(
            lambda: not TopicAdmin(self.line.kafka, self.line.options.topics).apply(ALL_TOPICS).problems,
            30.0,
            "created",
        )

    def command(self, *arguments: str) -> str:
        """Run a command as a user would; what it printed."""
        shared = ("--bootstrap", self.line.kafka.bootstrap, "--prefix", self.line.options.topic_prefix)
        database: tuple[str, ...] = ("--dsn", self.line.endpoints.postgres, "--password-file", str(self._password_file))
        if arguments[0] == "state":
            database = ()
        group = {"DELTAVISOR_POSTGRES__GROUP": self.place.sink_group}
        ended = subprocess.run(
            [sys.executable, "-m", "infra.cli.main", *arguments, *shared, *database],
            cwd=REPOSITORY,
            env={**os.environ, **group},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def refused(self) -> str:
        """The line does not start; which parts say so."""
        with pytest.raises(FatalError, match="refused to start") as error:
            self.line.start()
        self.line.stop()
        return str(error.value)

    def heads(self) -> dict[str, VmHead]:
        """vm.state as a reader sees it."""
        found = {}
        for message in messages(self.line.kafka, self.line.topics, VM_STATE):
            key, value = message.key() or b"", message.value()
            if len(key) == 36 and value is not None:
                found[key.decode()] = decode(VmHead, value, dict(message.headers() or []).get(SCHEMA_HEADER))
        return found

    def differences(self, fleet: FleetInTest) -> list[str]:
        """Where the fleet, vm.state and the tables differ now."""
        truth = truth_of(fleet.agent.truth().vms)
        heads = self.heads()
        with self.line.database() as connection:
            rows = current_rows(connection)
        found = []
        for vm_id, true in truth.items():
            head, row = heads.get(vm_id), rows.get(vm_id)
            if head is None or row is None:
                found.append(f"{vm_id}: head {head is not None}, row {row is not None}")
                continue
            of_head = (head.incarnation, head.version, head.digest, head.status, head.availability.state, head.host_id)
            of_row = (row.incarnation, row.version, row.digest, row.status, row.availability, row.host_id)
            if of_head != of_row:
                found.append(f"{vm_id}: head {of_head}, row {of_row}")
            if (true.status, true.availability) != (head.status, head.availability.state):
                found.append(f"{vm_id}: is {true.status} {true.availability}, head {of_head}")
            for name, wanted in true.facets.items():
                if head.facets.get(name, b"").hex() != wanted:
                    found.append(f"{vm_id}: facet {name} is another")
        return found

    def agree(self, fleet: FleetInTest) -> None:
        """Return once fleet, topics and tables say the same."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while found := self.differences(fleet):
            assert time.monotonic() < deadline, found[:10]
            time.sleep(0.5)

    def causes(self) -> dict[str, int]:
        """How many changes of each cause the history has."""
        rows = self.line.rows("SELECT cause, count(*) AS n FROM vm_change GROUP BY cause")
        return {row["cause"]: row["n"] for row in rows}


@pytest.fixture(scope="module")
def disaster(line: WholeLine, endpoints: Endpoints) -> Disaster:
    """The line of this module."""
    return Disaster(line, endpoints)


@pytest.fixture(autouse=True)
def _stopped(disaster: Disaster) -> Iterator[None]:
    """Whatever a test left running is stopped."""
    yield
    disaster.line.stop()


@pytest.fixture(scope="module")
def lived(disaster: Disaster) -> Fleet:
    """A fleet that has lived in the line; line and agents are stopped, everything is stored."""
    with FleetInTest(disaster.line, hosts=3, vms=45, seed=91, life="busy:4", life_rate=30.0) as fleet:
        fleet.until_stable(60.0)
        disaster.agree(fleet)
    disaster.line.stop()
    return fleet.fleet


def test_everything_in_kafka_is_lost_and_one_host_stays_silent(disaster: Disaster, lived: Fleet) -> None:
    """Fault W2 with the log gone: all VMs unknown/rebuilding, none down, and as before once their host speaks."""
    line = disaster.line
    with line.database() as connection:
        before, stored = current_rows(connection), len(history_rows(connection))
    disaster.delete(ALL_TOPICS)
    disaster.forget_groups()
    _begin_and_die(disaster)
    assert "(75)" in disaster.refused()

    disaster.command("rebuild", "--yes")
    assert "0 VMs and 0 hosts taken in" in disaster.command("rebuild", "--yes")

    alive = {vm_id: row for vm_id, row in before.items() if row.status != "removed"}
    heads = disaster.heads()
    assert {vm_id: (head.incarnation, head.version) for vm_id, head in heads.items()} == {
        vm_id: (row.incarnation + 1, 1) for vm_id, row in alive.items()
    }
    assert {(head.availability.state, head.availability.reason) for head in heads.values()} == {
        ("unknown", "rebuilding")
    }
    assert {vm_id: (head.status, head.host_id) for vm_id, head in heads.items()} == {
        vm_id: (row.status, row.host_id) for vm_id, row in alive.items()
    }
    silent = lived.hosts[2]
    lived.set_agent(silent.index, running=False)
    line.start()
    with FleetInTest(line, hosts=3, vms=45, again=lived) as fleet:
        disaster.agree(fleet)
        kept = {vm_id: head for vm_id, head in disaster.heads().items() if head.host_id == uuid_text(silent.host_id)}
        assert kept
        assert {(head.availability.state, head.availability.reason) for head in kept.values()} == {
            ("unknown", "rebuilding")
        }
        hosts = line.rows("SELECT host_id::text, reachability FROM host")
        said = {row["host_id"]: row["reachability"] for row in hosts}
        assert said == {uuid_text(host.host_id): "silent" if host is silent else "up" for host in lived.hosts}
        assert disaster.causes()["rebuilt"] == len(alive)
        assert not line.rows("SELECT 1 FROM vm_change WHERE exit_reason IN ('lost', 'host_lost') AND cause = 'judged'")
        fleet.agent.call(partial(lived.set_agent, silent.index, running=True))
        disaster.agree(fleet)
    with line.database() as connection:
        history = history_rows(connection)
    assert len({(row.vm_id, row.incarnation, row.version) for row in history}) == len(history) > stored
    line.stop()


def _begin_and_die(disaster: Disaster) -> None:
    """A rebuild that is killed when it has built some partitions and not others."""
    said: list[str] = []

    def die(sentence: str) -> None:
        said.append(sentence)
        if sentence.startswith("vm.state["):
            raise KeyboardInterrupt

    plan = plan_rebuild(disaster.place, say=said.append)
    with pytest.raises(KeyboardInterrupt):
        run_rebuild(disaster.place, plan, now_seconds=time.time(), say=die)


@pytest.mark.parametrize("topics", [(VM_STATE,), (HOSTS_TABLE,), (VM_STATE, HOSTS_TABLE, HOST_STATE)])
def test_p8_state_topics_are_deleted(disaster: Disaster, lived: Fleet, topics: tuple[str, ...]) -> None:
    """An empty table is not taken for the truth; a rebuild fills it, from the end of its input."""
    disaster.delete(topics)
    disaster.create()
    assert "(75)" in disaster.refused()
    disaster.command("rebuild", "--yes")
    disaster.line.start()
    with FleetInTest(disaster.line, hosts=3, vms=45, again=lived) as fleet:
        disaster.agree(fleet)
        hosts = {
            key.decode()
            for message in messages(disaster.line.kafka, disaster.line.topics, HOST_STATE)
            if (key := message.key())
        }
        assert hosts == {uuid_text(host.host_id) for host in lived.hosts}
    disaster.line.stop()


def _set_cleanup(admin: AdminClient, topic: str, policy: str) -> None:
    entry = ConfigEntry("cleanup.policy", policy, incremental_operation=AlterConfigOpType.SET)
    asked = [ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])]
    for future in admin.incremental_alter_configs(asked).values():
        future.result(30)


def test_p8_state_topic_is_cut(disaster: Disaster, lived: Fleet) -> None:
    """Its records up to the end are deleted: a partition that begins later than it should is not believed."""
    kafka, topics = disaster.line.kafka, disaster.line.topics
    places = [TopicPartition(topics.name(VM_STATE), part, -1) for part in range(topics.partitions)]
    admin = make_admin(kafka)
    # A broker refuses it for a compacted topic; whoever does it all the same has to change the policy first.
    _set_cleanup(admin, topics.name(VM_STATE), "delete")
    for future in admin.delete_records(places).values():
        future.result(30)
    _set_cleanup(admin, topics.name(VM_STATE), "compact")
    assert "(75)" in disaster.refused()
    disaster.command("rebuild", "--yes")
    disaster.line.start()
    with FleetInTest(disaster.line, hosts=3, vms=45, again=lived) as fleet:
        disaster.agree(fleet)
    disaster.line.stop()


@pytest.mark.parametrize(
    "topics", [(HOST_REPORTS,), (VM_OBSERVATIONS,), (VM_CHANGES, HOST_CHANGES), (HOST_REPORTS, VM_OBSERVATIONS)]
)
def test_b6_inputs_are_created_again(disaster: Disaster, lived: Fleet, topics: tuple[str, ...]) -> None:
    """Offsets begin at 0 and ids differ: nothing starts before `topics adopt`, then all agree."""
    disaster.delete(topics)
    disaster.create()
    assert "(75)" in disaster.refused()
    disaster.command("topics", "adopt", "--yes")
    assert "nothing to adopt" in disaster.command("topics", "adopt", "--yes")
    disaster.line.start()
    with FleetInTest(disaster.line, hosts=3, vms=45, again=lived, life="busy:2", life_rate=20.0) as fleet:
        fleet.until_stable(60.0)
        disaster.agree(fleet)
    disaster.line.stop()


def test_dump_is_shown_and_rebuilt_from(disaster: Disaster, lived: Fleet, tmp_path: Path) -> None:
    """A dump alone is enough when the database is not asked."""
    file = tmp_path / "state"
    disaster.command("state", "dump", "--out", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    ended = subprocess.run(
        [sys.executable, "-m", "infra.cli.main", "state", "show", str(file)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "in all 3 hosts; VMs: " in ended.stdout
    before = {vm_id: head for vm_id, head in disaster.heads().items() if head.status != "removed"}
    disaster.delete((VM_STATE, HOSTS_TABLE))
    disaster.command("rebuild", "--from-dump", str(file), "--no-postgres", "--yes")
    heads = disaster.heads()
    assert {vm_id: (head.status, head.facets, head.run_id) for vm_id, head in heads.items()} == {
        vm_id: (head.status, head.facets, head.run_id) for vm_id, head in before.items()
    }
    disaster.line.start()
    with FleetInTest(disaster.line, hosts=3, vms=45, again=lived) as fleet:
        disaster.agree(fleet)
