"""Rolling upgrade to newer rules and newer minors, and back, under load (F-W3, F-P12; INV-1, 2, 3, 6, 7, 11)."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import msgspec
import pytest

from infra.agreement.topics import messages
from infra.rebuild.rollback import plan_rollback, run_rollback
from infra.runtime.errors import ConfigError, ExitCode
from infra.runtime.topics import HOSTS_TABLE, VM_CHANGES, VM_OBSERVATIONS, VM_STATE
from infra.stack.endpoints import Endpoints
from schemas.codec import SCHEMA_HEADER, decode
from schemas.host_rows import PARTITION_KEY, PartitionRow
from schemas.rules import RULES_VERSION
from streams.vms.rows import VmsPartitionRow
from tests.faults import newer
from tests.faults.crew import Crew
from tests.faults.faulty_line import FaultyLine
from tests.faults.load import Load, LoadShape
from tests.faults.test_workers import TABLES

pytestmark = [pytest.mark.stack, pytest.mark.slow]

SHAPE = LoadShape(hosts=8, vms_per_host=50, changes_per_report=20, changes_per_second=400.0)
WORK_SECONDS = 1.5
OLD_NEW_OLD = [RULES_VERSION, newer.RULES_VERSION, RULES_VERSION]
WORKERS = ("hosts-1", "hosts-2", "vms-1", "vms-2")


class Versions:
    """Which version each worker of a line is."""

    def __init__(self, line: FaultyLine, crew: Crew) -> None:
        self._line, self._crew = line, crew
        self._older = {part.name: part.argv for part in line.parts()}

    def install(self, name: str, *, older: bool = False) -> None:
        """What the part is from its next start on."""
        stage = name.partition("-")[0]
        made = (sys.executable, "-m", "tests.faults.newer", stage, "--config", str(self._line.config))
        self._crew.become(name, self._older[name] if older else made)

    def upgrade(self, name: str) -> None:
        """Asked to stop, then started as the newer version."""
        self._crew.hold(name)
        self._crew.signal(name, signal.SIGTERM)
        self._crew.until(lambda: not self._crew.running(name), 30.0, f"{name} stops")
        self.install(name)
        self._crew.hold(name, False)
        self._crew.wait_ready(name)

    def refuses(self, name: str, lives: int) -> None:
        """Wait until the part ended of itself, since it met something newer."""
        self._crew.until(lambda: self._crew.lives(name) > lives, 120.0, f"{name} meets newer rules")
        assert self._crew.last(name).code == ExitCode.NEWER_VERSION


def test_upgrade_one_by_one_then_back_under_load(endpoints: Endpoints, tmp_path: Path) -> None:
    options = {"hosts_workers": 2, "vms_workers": 2, "tables": TABLES}
    with FaultyLine(endpoints, tmp_path, **options) as line, Crew(line.parts()) as crew:
        versions = Versions(line, crew)
        crew.wait_ready()
        with Load(line.kafka, line.topics, SHAPE) as load:
            load.resume()
            time.sleep(WORK_SECONDS)
            _upgrade(crew, versions)
            _downgrade_without_rollback(crew, versions)
            _stop_with_inputs_left(line, crew)
            _roll_back(line)
            for name in WORKERS:
                versions.install(name, older=True)
                crew.hold(name, False)
            crew.wait_ready()
            time.sleep(WORK_SECONDS)
            line.settle(load)
            account = line.account(load)
        print(crew.ended, account)
        assert account.clean, account
        assert _rules_of_rows(line) == {
            (topic, part): OLD_NEW_OLD for topic in (HOSTS_TABLE, VM_STATE) for part in range(4)
        }
        assert _rules_of_history(line) == {tuple(OLD_NEW_OLD)}
        assert _minors(line, VM_OBSERVATIONS, "ObservationBatch") == _minors(line, VM_CHANGES, "VmChange") == 2


def _upgrade(crew: Crew, versions: Versions) -> None:
    """Readers first; hosts-1 comes too early, while vms-2 is still of the older version."""
    versions.upgrade("vms-1")
    time.sleep(WORK_SECONDS)
    crew.expect_refusal("vms-2")
    lives = crew.lives("vms-2")
    versions.upgrade("hosts-1")
    versions.refuses("vms-2", lives)
    versions.upgrade("vms-2")
    time.sleep(WORK_SECONDS)
    versions.upgrade("hosts-2")
    crew.wait_ready()
    time.sleep(WORK_SECONDS)


def _downgrade_without_rollback(crew: Crew, versions: Versions) -> None:
    """Workers of the older version refuse the tables of the newer."""
    for name in ("vms-2", "hosts-2"):
        lives = crew.lives(name)
        versions.install(name, older=True)
        crew.expect_refusal(name)
        crew.signal(name, signal.SIGTERM)
        versions.refuses(name, lives + 1)


def _stop_with_inputs_left(line: FaultyLine, crew: Crew) -> None:
    """The newer hosts stage goes on a while after the newer vms stage was killed: what it says is left unread."""
    with pytest.raises(ConfigError, match="workers run"):
        plan_rollback(line.kafka, line.options.topics, "vms", patience_seconds=0.0)
    for name in ("vms-1", "hosts-1"):
        crew.hold(name)
        crew.signal(name)
        crew.until(lambda name=name: not crew.running(name), 10.0, f"{name} dies")  # type: ignore[misc]
        time.sleep(WORK_SECONDS)


def _roll_back(line: FaultyLine) -> None:
    """Hosts first; begun, broken off after one partition, and done whole by the command, which may be repeated."""
    refused = _rollback_command(line, "vms")
    assert refused.returncode == ExitCode.CONFIG, refused
    assert "stream rollback hosts" in refused.stderr
    plan = plan_rollback(line.kafka, line.options.topics, "hosts")
    run_rollback(line.kafka, line.options.topics, msgspec.structs.replace(plan, standings=plan.due[:1]), say=print)
    for stage in ("hosts", "vms"):
        done = _rollback_command(line, stage)
        assert done.returncode == ExitCode.OK, done
        assert f"back at rules {RULES_VERSION}" in done.stdout
        assert ("inputs of newer rules" in done.stdout) or stage == "hosts", done.stdout
        assert plan_rollback(line.kafka, line.options.topics, stage).due == []


def _rollback_command(line: FaultyLine, stage: str) -> subprocess.CompletedProcess[str]:
    command = (
        sys.executable,
        "-m",
        "infra.cli.main",
        "stream",
        "rollback",
        stage,
        "--yes",
        "--config",
        str(line.config),
    )
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def _rules_of_rows(line: FaultyLine) -> dict[tuple[str, int], list[int]]:
    """Under which rules each partition's own row was written, in order, without repetitions."""
    found: dict[tuple[str, int], list[int]] = defaultdict(list)
    kinds: dict[str, type[PartitionRow | VmsPartitionRow]] = {HOSTS_TABLE: PartitionRow, VM_STATE: VmsPartitionRow}
    for topic, kind in kinds.items():
        for message in messages(line.kafka, line.topics, topic):
            value, partition = message.value(), message.partition()
            if message.key() == PARTITION_KEY and value is not None and partition is not None:
                row = decode(kind, value, dict(message.headers() or [])[SCHEMA_HEADER])
                found[topic, partition].append(row.rules_version)
    return {place: [rules for rules, _ in itertools.groupby(said)] for place, said in found.items()}


def _rules_of_history(line: FaultyLine) -> set[tuple[int, ...]]:
    """The same of each VM's history, of VMs that changed under each."""
    with line.superuser(line.endpoints.postgres) as connection:
        rows = connection.execute("SELECT vm_id, rules_version FROM vm_change ORDER BY vm_id, incarnation, version")
        by_vm = itertools.groupby(rows, key=lambda row: row["vm_id"])
        return {tuple(rules for rules, _ in itertools.groupby(row["rules_version"] for row in vm)) for _, vm in by_vm}


def _minors(line: FaultyLine, topic: str, record: str) -> int:
    """How many minors of this record are in the topic."""
    headers = {dict(message.headers() or []).get(SCHEMA_HEADER) for message in messages(line.kafka, line.topics, topic)}
    return len({header for header in headers if header is not None and header.startswith(f"{record}/".encode())})
