"""Messages lost, repeated, swapped, cut and cut off below the log's start, with real workers, Kafka and PostgreSQL."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import TopicPartition
from typer.testing import CliRunner

from infra.agreement.topics import messages
from infra.cli.main import build
from infra.runtime.errors import DeltavisorError
from infra.runtime.kafka import make_admin, make_producer
from infra.runtime.topics import HOST_REPORTS, HOSTS_TABLE, VM_STATE
from infra.stack.endpoints import Endpoints
from schemas.codec import decode, encode, header_of
from schemas.ids import key_of, partition_of, uuid_text
from schemas.resync import Asker
from schemas.vm_state import VmHead
from tests.e2e.line import FleetInTest, WholeLine
from tests.integration.streams.agents import Agents, ends_of
from tests.unit.streams.hosts.world import Agent

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(400)]

HEALED_SECONDS = 60.0


@pytest.fixture
def line(endpoints: Endpoints, tmp_path: Path) -> Iterator[WholeLine]:
    """All parts but an agent."""
    with WholeLine(endpoints, tmp_path) as made:
        yield made


@pytest.fixture
def agents(line: WholeLine) -> Iterator[Agents]:
    """Three hosts with four VMs each, known everywhere."""
    with Agents(line.kafka, line.options.topics, hosts=3, vms=4) as made:
        line.until(lambda: processes(line) == truth(made), HEALED_SECONDS, "the first snapshots are in the database")
        yield made


def truth(agents: Agents) -> dict[str, int]:
    """VMs by host."""
    return {uuid_text(agent.host_id): len(agent.vms) for agent in agents.agents}


def processes(line: WholeLine) -> dict[str, int]:
    rows = line.rows("SELECT host_id, count(*) AS n FROM vm WHERE availability = 'known' GROUP BY host_id")
    return {str(row["host_id"]): row["n"] for row in rows}


def last_processes(line: WholeLine, agent: Agent) -> set[str]:
    """Process names of a host's VMs in the database, all of which are known."""
    rows = line.rows(
        "SELECT run_process_id FROM vm WHERE host_id = %s AND availability = 'known'", uuid_text(agent.host_id)
    )
    return {row["run_process_id"] for row in rows} if len(rows) == len(agent.vms) else set()


def versions(line: WholeLine, agent: Agent) -> dict[str, int]:
    rows = line.rows("SELECT vm_id, version FROM vm WHERE host_id = %s", uuid_text(agent.host_id))
    return {str(row["vm_id"]): row["version"] for row in rows}


def metric(line: WholeLine, part: str, name: str) -> float:
    """Sum of a metric over its labels."""
    assert line.running is not None
    port = next(state.http_port for state in line.running.states() if state.name == part)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(one.rsplit(" ", 1)[1]) for one in lines if one.startswith(name))


def test_faults_in_the_reports_of_one_host_are_asked_for_and_healed(line: WholeLine, agents: Agents) -> None:
    sick, *well = agents.agents
    others = [versions(line, agent) for agent in well]
    with agents.quiet:  # lost, truncated, garbled
        reports = agents.change(sick, "second")
        values = agents.send(sick, [reports[0]])
        beats = agents.sent[sick.host_id]
        agents.write(sick, [b"\xc1junk", values[0][:-7]])
        agents.send(sick, [reports[3]])
    line.until(lambda: bool(agents.requests), HEALED_SECONDS, "a request")
    assert agents.sent[sick.host_id] - beats <= 10, "two heartbeats of five seconds"
    line.until(lambda: last_processes(line, sick) == {"second"}, HEALED_SECONDS, "what was lost is known")

    with agents.quiet:  # swapped, and everything repeated
        reports = agents.change(sick, "third")
        values = agents.send(sick, [reports[1], reports[0], reports[3], reports[2]])
        agents.write(sick, values)
    line.until(lambda: last_processes(line, sick) == {"third"}, HEALED_SECONDS, "what was swapped is known")

    assert {(one.host_id, one.asker) for one in agents.requests} == {(sick.host_id, Asker.HOSTS)}
    assert [versions(line, agent) for agent in well] == others
    line.until(lambda: metric(line, "hosts-1", "deltavisor_hosts_sequence_gaps_total") >= 2, 10, "the gaps counted")
    assert metric(line, "hosts-1", "deltavisor_hosts_dead_letters_records_total") == 2
    assert metric(line, "hosts-1", "deltavisor_hosts_repeats_records_total") >= 4


def test_reports_cut_off_below_the_start_of_the_log_are_a_gap(line: WholeLine, agents: Agents) -> None:
    sick, *well = agents.agents
    key = key_of(sick.host_id)
    partition = partition_of(key, line.options.topics.partitions)
    neighbours = [
        agent
        for agent in agents.agents
        if partition_of(key_of(agent.host_id), line.options.topics.partitions) == partition
    ]
    line.stop()
    with agents.quiet:
        agents.send(sick, agents.change(sick, "second"))
        place = TopicPartition(line.kafka.topic_prefix + HOST_REPORTS, partition)
        place.offset = ends_of(line.kafka, HOST_REPORTS, partition)[1]
        admin = make_admin(line.kafka)
        for future in admin.delete_records([place]).values():
            future.result(20)
    line.start()

    line.until(
        lambda: line.rows("SELECT count(*) AS n FROM host_change WHERE cause = 'gap'")[0]["n"] == len(neighbours),
        HEALED_SECONDS,
        "the gap is in the database",
    )
    line.until(lambda: last_processes(line, sick) == {"second"}, HEALED_SECONDS, "what was cut off is known")
    assert {one.host_id for one in agents.requests if one.reason == "gap"} == {one.host_id for one in neighbours}
    line.until(lambda: metric(line, "hosts-1", "deltavisor_hosts_offset_gaps_total") >= 1, 10, "the gap counted")
    assert all(agent.host_id in {one.host_id for one in neighbours} or versions(line, agent) for agent in well)


def test_operators_ask_hosts_and_have_vms_written_again(line: WholeLine, agents: Agents, tmp_path: Path) -> None:
    config = str(tmp_path / "line.toml")
    known = [versions(line, agent) for agent in agents.agents]
    line.settle()
    history = line.rows("SELECT count(*) AS n FROM vm_change")[0]["n"]
    vm_id = uuid_text(next(iter(agents.agents[0].vms)))

    assert call("resync", "--all", "--config", config) == (0, "3 of 3 hosts have answered")
    assert {one.asker for one in agents.requests} == {Asker.OPERATOR}
    assert call("republish", vm_id, "--config", config) == (0, "1 of 1 VMs were written again")
    assert call("republish", "--all", "--config", config) == (0, "12 of 12 VMs were written again")
    republished = 'deltavisor_vms_intents_records_total{outcome="republished"}'
    line.until(lambda: metric(line, "vms-1", republished) == 13, 10, "thirteen intents counted")

    agents.answering = False
    host = uuid_text(agents.agents[1].host_id)
    code, said = call("resync", host[:13], "--no-force", "--timeout", "3", "--config", config)
    assert (code, f"{host} did not answer" in said) == (1, True)
    assert call("resync", "nobody", "--config", config)[0] == 64

    line.settle()
    assert [versions(line, agent) for agent in agents.agents] == known, "the database drops what it has"
    assert line.rows("SELECT count(*) AS n FROM vm_change")[0]["n"] == history


def test_damaged_tables_are_found_by_sums_and_healed_by_a_real_agent(endpoints: Endpoints, tmp_path: Path) -> None:
    """Rows of both tables deleted, changed and added while nobody runs; an "hour" has ten seconds."""
    line = WholeLine(endpoints, tmp_path)
    line.options = msgspec.structs.replace(line.options, tables={"hosts": {"sum_ticks": 10}})
    with line, FleetInTest(line, hosts=4, vms=40) as fleet:
        assert line.disagreements(fleet.agent) == []
        line.stop()
        heads = rows_of(line, VM_STATE, lambda key: len(key) == 36)
        lost, changed, copied = (key for key, _ in sorted(heads.items())[:3])
        head = decode(VmHead, *heads[changed])
        claim = head.claims[0]
        mark = msgspec.structs.replace(claim.facets["identity"], raw=1)
        claim = msgspec.structs.replace(claim, facets={**claim.facets, "identity": mark})
        damaged = msgspec.structs.replace(head, claims=[claim])
        added = added_beside(line, copied)
        bogus = msgspec.structs.replace(decode(VmHead, *heads[copied]), vm_id=added.decode())
        write(line, VM_STATE, {lost: None, changed: encode(damaged), added: encode(bogus)}, header_of(VmHead))
        marks = rows_of(line, HOSTS_TABLE, lambda key: b"/" in key)
        write(line, HOSTS_TABLE, {next(iter(sorted(marks))): None}, b"")
        line.start()

        unequal = 'deltavisor_vms_facet_sums_total{outcome="unequal"}'
        line.until(lambda: metric(line, "vms-1", unequal) > 0, HEALED_SECONDS, "the damage is found")
        equal_since = settled_sums(line)
        assert metric(line, "vms-1", 'deltavisor_vms_facet_sums_total{outcome="flagged"}') == 0
        assert equal_since
        # The VM that never was ends as `down`, which its owner says by not listing it.
        ended = {"status": "down", "exit_reason": "lost"}
        line.until(
            lambda: line.rows("SELECT status, exit_reason FROM vm WHERE vm_id = %s", added.decode()) == [ended],
            HEALED_SECONDS,
            "the VM that never was is down",
        )
        known = [told for told in line.disagreements(fleet.agent) if added.decode() not in told]
        assert known == []


def settled_sums(line: WholeLine) -> bool:
    """Wait until a whole round of sums was equal."""
    deadline = time.monotonic() + HEALED_SECONDS
    name = "deltavisor_vms_facet_sums_total"
    unequal = -1.0
    while time.monotonic() < deadline:
        before, unequal = unequal, metric(line, "vms-1", f'{name}{{outcome="unequal"}}')
        if before == unequal:
            return True
        time.sleep(11)
    return False


def added_beside(line: WholeLine, vm_id: bytes) -> bytes:
    """An id that nobody has, of the same partition as this VM."""
    partitions = line.options.topics.partitions
    home = partition_of(vm_id, partitions)
    return next(
        key
        for key in (key_of(number.to_bytes(16, "big")) for number in range(1, 999))
        if partition_of(key, partitions) == home
    )


def rows_of(line: WholeLine, topic: str, wanted: Callable[[bytes], bool]) -> dict[bytes, tuple[bytes, bytes | None]]:
    """Value and schema of the last row of each key that is wanted."""
    found: dict[bytes, tuple[bytes, bytes | None]] = {}
    for message in messages(line.kafka, line.topics, topic):
        key, value = message.key(), message.value()
        assert isinstance(key, bytes)
        if value is None:
            found.pop(key, None)
        elif wanted(key) and not key.startswith(b"#"):
            found[key] = value, dict(message.headers() or []).get("schema")
    return found


def write(line: WholeLine, topic: str, rows: Mapping[bytes, bytes | None], schema: bytes) -> None:
    """Rows into a table's log, as only its owner should, and the partition row again: it makes a batch count."""
    partitions = line.options.topics.partitions
    producer = make_producer(line.kafka, linger_ms=0)
    last = {
        message.partition(): (message.value(), message.headers())
        for message in messages(line.kafka, line.topics, topic)
        if message.key() == b"#partition"
    }
    for key, value in rows.items():
        home = partition_of(key[:36], partitions)
        producer.produce(line.kafka.topic_prefix + topic, value, key, home, headers=[("schema", schema)])
        closing, headers = last[home]
        producer.produce(line.kafka.topic_prefix + topic, closing, b"#partition", home, headers=headers or [])
    assert producer.flush(20) == 0


def call(*arguments: str) -> tuple[int, str]:
    """Exit code of a command, and the end of its last line without the time."""
    result = CliRunner().invoke(build(arguments[0]), list(arguments))
    if isinstance(result.exception, DeltavisorError):
        return int(result.exception.exit_code), str(result.exception)
    lines = result.output.strip().splitlines()
    print(result.output)
    return result.exit_code, lines[-1].split(" s  ")[-1] if lines else ""
