"""The verifier on a real line: silent over scripts, migrations and a kill; it finds what is then damaged by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import confluent_kafka
import msgpack
import pytest

from infra.stack.endpoints import Endpoints
from producers.simulator import migrations, scripts
from tests.e2e.line import FleetInTest, WholeLine
from tests.verifier.findings import Kind, Report
from tests.verifier.logs import VM_CHANGES, KafkaLogs, Message
from tests.verifier.quiet import wait_until_quiet
from tests.verifier.settings import Settings
from tests.verifier.verify import verify

pytestmark = [pytest.mark.stack, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
QUIET_WITHIN_SECONDS = 120.0


@pytest.fixture(scope="module")
def line(endpoints: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeLine]:
    with WholeLine(endpoints, tmp_path_factory.mktemp("verified")) as running:
        yield running


def settings_of(line: WholeLine) -> Settings:
    return Settings(
        kafka=line.endpoints.kafka,
        postgres=line.endpoints.postgres,
        postgres_password=(line.endpoints.secrets_dir / "postgres").read_text().strip(),
        prefix=line.options.topic_prefix,
        injected_letters=0,
        grace_ticks=20,
    )


def live(line: WholeLine) -> None:
    """Scripts, migrations and a seeded life with the vms stage killed in it; returns when the line is quiet."""
    with FleetInTest(line, hosts=3, vms=45, seed=5, life="busy:6", life_rate=40.0) as fleet:
        killed = line.pid_of("vms-1")
        os.kill(killed, signal.SIGKILL)
        line.until(partial(line.lives_again, "vms-1", killed), 60.0, "the vms stage runs again")
        fleet.until_stable(120.0)
        for script in (
            migrations.migrate(0, 1),
            migrations.migrate_fail(3, 2),
            scripts.then(scripts.stop(6), scripts.undefine(6), scripts.define_again(6)),
            scripts.qemu_death(9),
            scripts.restart_agent(1),
        ):
            fleet.do(script, gap_seconds=0.05)
        wait_until_quiet(settings_of(line), timeout_seconds=QUIET_WITHIN_SECONDS)
        by_command(line)


def by_command(line: WholeLine) -> None:
    """The same verdict from the command line."""
    settings = settings_of(line)
    assert settings.postgres is not None
    assert settings.postgres_password is not None
    command = [sys.executable, "-m", "tests.verifier", "--kafka", settings.kafka, "--postgres", settings.postgres]
    done = subprocess.run(
        [*command, "--prefix", settings.prefix, "--wait", str(QUIET_WITHIN_SECONDS), "--json"],
        cwd=ROOT,
        env={**os.environ, "PGPASSWORD": settings.postgres_password},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["silent"] is True


def last_change(line: WholeLine) -> Message:
    with KafkaLogs(line.endpoints.kafka, line.options.topic_prefix, {}) as logs:
        span = logs.ends()[VM_CHANGES][0]
        return list(logs.read(VM_CHANGES, 0, span))[-1]


def publish_otherwise(line: WholeLine, message: Message) -> None:
    """Publish a change once more, altered."""
    assert message.value is not None
    value = msgpack.unpackb(message.value)
    value["observed_at"] += 1000
    producer = confluent_kafka.Producer({"bootstrap.servers": line.endpoints.kafka})
    producer.produce(
        line.options.topic_prefix + VM_CHANGES,
        msgpack.packb(value),
        message.key,
        partition=0,
        headers=list(message.headers.items()),
    )
    assert producer.flush(30) == 0


def kinds(report: Report) -> set[Kind]:
    return {finding.kind for finding in report.findings}


def test_a_real_line_is_silent_until_it_is_damaged(line: WholeLine) -> None:
    live(line)
    report = verify(settings_of(line))
    assert report.silent, report.text()
    assert report.notes == []
    assert report.looked_at["changes explained"] == report.looked_at["rows of vm_change"] > 100
    line.stop()
    with line.database() as connection:
        deleted = connection.execute(
            "DELETE FROM vm_change WHERE (vm_id, incarnation, version) = "
            "(SELECT vm_id, incarnation, version FROM vm_change ORDER BY detected_at LIMIT 1) RETURNING vm_id::text"
        ).fetchall()
        aged = connection.execute(
            "UPDATE vm SET version = version - 1 WHERE vm_id = (SELECT vm_id FROM vm WHERE version > 1 LIMIT 1) "
            "RETURNING vm_id::text"
        ).fetchall()
        connection.execute("UPDATE fleet_count SET n = n + 1")
    publish_otherwise(line, last_change(line))
    report = verify(settings_of(line))
    found = {(finding.kind, finding.vm) for finding in report.findings}
    assert (Kind.LOST, deleted[0]["vm_id"]) in found, report.text()
    assert (Kind.STALE, aged[0]["vm_id"]) in found, report.text()
    assert {Kind.POSITION, Kind.DIFFERING} <= kinds(report), report.text()
    assert any(finding.invariant == "I11" for finding in report.findings), report.text()
