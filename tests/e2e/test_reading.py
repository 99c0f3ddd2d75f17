"""The commands that look, on a real line: as a person and as a script use them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import psycopg
import pytest

from infra.cli.connect import READER_ROLE, READER_SECRET
from producers.simulator import scripts
from schemas.ids import uuid_text
from tests.e2e.line import FleetInTest, WholeLine

pytestmark = [pytest.mark.stack, pytest.mark.slow]


def deltavisor(line: WholeLine, *arguments: str, dsn: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line against the line of the test, as the role that may only read."""
    variables = {
        "DELTAVISOR_KAFKA__BOOTSTRAP": line.kafka.bootstrap,
        "DELTAVISOR_KAFKA__TOPIC_PREFIX": line.kafka.topic_prefix,
        "DELTAVISOR_READER__POSTGRES_DSN": dsn
        or psycopg.conninfo.make_conninfo(line.endpoints.postgres, user=READER_ROLE),
        "DELTAVISOR_READER__POSTGRES_PASSWORD_FILE": str(line.endpoints.secrets_dir / READER_SECRET),
        "COLUMNS": "200",
    }
    return subprocess.run(
        [sys.executable, "-m", "infra.cli.main", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def answer(line: WholeLine, *arguments: str) -> Any:
    """Parsed JSON of a command that must succeed."""
    done = deltavisor(line, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_vm_now_and_before(line: WholeLine) -> None:
    with FleetInTest(line, hosts=2, vms=6, seed=31) as fleet:
        line.settle()
        fleet.do(scripts.pause(0), gap_seconds=0.05)
        line.settle()
        vm_id = uuid_text(fleet.fleet.vms[0].vm_id)
        host_id = uuid_text(fleet.fleet.hosts[0].host_id)

        listed = answer(line, "vm", "list", "--host", host_id)
        assert {row["vm_id"] for row in listed} == {uuid_text(vm.vm_id) for vm in fleet.fleet.vms if vm.owner == 0}
        assert [row["vm_id"] for row in answer(line, "vm", "list", "--status", "paused")] == [vm_id]

        shown = answer(line, "vm", "show", vm_id[:13])
        assert (shown["vm_id"], shown["status"], shown["availability"]) == (vm_id, "paused", "known")
        assert set(shown["facets"]) >= {"identity", "devices"}
        assert answer(line, "vm", "show", shown["facets"]["identity"]["name"])["vm_id"] == vm_id

        history = answer(line, "vm", "history", vm_id)
        assert [row["version"] for row in history] == list(range(len(history), 0, -1))
        assert history[0]["status"] == "paused"
        assert history[0]["evidence_topic"] == "host.reports"
        table = deltavisor(line, "vm", "history", vm_id)
        assert table.returncode == 0
        assert f"host.reports[{history[0]['evidence_partition']}]@{history[0]['evidence_offset']}" in table.stdout

        tailed = deltavisor(line, "tail", "vm.changes", "--key", vm_id, "--from-start", "--no-follow", "--json")
        assert tailed.returncode == 0, tailed.stderr
        changes = [json.loads(text) for text in tailed.stdout.splitlines()]
        assert [change["version"] for change in changes] == [row["version"] for row in reversed(history)]
        assert changes[-1]["status"] == "paused"


def test_what_is_not_there_is_said_in_one_line(line: WholeLine) -> None:
    missing = deltavisor(line, "vm", "show", "no-such-vm")
    assert missing.returncode == 1
    assert "no VM has the id or name 'no-such-vm'" in missing.stderr
    topic = deltavisor(line, "tail", "vm.chnges")
    assert topic.returncode == 64
    assert "'vm.chnges' is not a topic of ours" in topic.stderr
    away = deltavisor(line, "vm", "list", dsn="host=127.0.0.1 port=1 dbname=x user=x")
    assert away.returncode == 69
    assert "127.0.0.1:1" in away.stderr
    for done in (missing, topic, away):
        assert "Traceback" not in done.stderr
