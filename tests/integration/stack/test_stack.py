"""Real servers: started, found again, repaired after kill -9, side by side, stopped without a trace."""

from __future__ import annotations

import os
import secrets as randomness
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psycopg
import pytest

from infra.runtime.errors import ConfigError, NeighbourUnreachable
from infra.runtime.kafka import wait_for_kafka
from infra.runtime.secret import Secret
from infra.runtime.settings import KafkaSettings
from infra.stack.endpoints import Endpoints
from infra.stack.layout import default_base
from infra.stack.processes import MARKER, identify, spawn, stop
from infra.stack.services import ServiceName
from infra.stack.settings import StackSettings
from infra.stack.stack import Stack
from infra.stack.state import read_state, write_state
from infra.stack.status import ServiceState

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

CACHE = default_base() / "cache"
SMALL = StackSettings(cache_dir=CACHE, durable=False, kafka_heap_mib=256, postgres_shared_buffers_mib=32)
NEEDED = {"kafka", "postgres"}

MakeStack = Callable[[], Stack]


@pytest.fixture
def make_stack(tmp_path: Path) -> Iterator[MakeStack]:
    made: list[Stack] = []

    def make() -> Stack:
        made.append(Stack(f"test-{randomness.token_hex(3)}", tmp_path, SMALL))
        return made[-1]

    yield make
    for stack in made:
        stack.reset()


@pytest.fixture
def stack(make_stack: MakeStack) -> Stack:
    return make_stack()


def states(stack: Stack) -> dict[ServiceName, ServiceState]:
    return {one.service: one.state for one in stack.status()}


def processes_below(directory: Path) -> list[int]:
    """Live processes with this directory in their command line, their environment or as working directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid() or identify(int(entry.name)) is None:
            continue
        try:
            seen = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            seen += os.fsencode((entry / "cwd").readlink())
        except OSError:
            continue
        if os.fsencode(directory) in seen:
            found.append(int(entry.name))
    return found


def superuser(endpoints: Endpoints) -> psycopg.Connection[tuple[object, ...]]:
    password = (endpoints.secrets_dir / "postgres").read_text().strip()
    return psycopg.connect(endpoints.postgres, password=password, autocommit=True)


def test_up_find_again_down(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    endpoints = stack.up(services=NEEDED)
    assert stack.endpoints() == endpoints
    assert stack.up(services=NEEDED) == endpoints, "what runs is left alone"
    wait_for_kafka(KafkaSettings(bootstrap=endpoints.kafka))
    with superuser(endpoints) as connection:
        connection.execute("CREATE TABLE kept (n int)")
        row = connection.execute("SELECT current_database(), current_setting('track_commit_timestamp')").fetchone()
    assert row == ("deltavisor", "on")
    assert states(stack) == {
        ServiceName.KAFKA: ServiceState.RUNNING,
        ServiceName.POSTGRES: ServiceState.RUNNING,
        ServiceName.VICTORIAMETRICS: ServiceState.STOPPED,
        ServiceName.PROMETHEUS: ServiceState.STOPPED,
    }
    kafka = next(one for one in stack.status() if one.service is ServiceName.KAFKA)
    assert kafka.pid == endpoints.pids["kafka"]
    assert kafka.cpu_seconds is not None
    assert kafka.cpu_seconds > 0
    assert kafka.rss_bytes is not None
    assert kafka.rss_bytes > 50_000_000

    stack.down()
    assert stack.endpoints() is None
    assert processes_below(stack.paths.root) == []
    stack.down()

    begun = time.monotonic()
    again = stack.up(services=NEEDED)
    with capsys.disabled():
        sys.stdout.write(f"\nsecond start of Kafka and PostgreSQL: {time.monotonic() - begun:.1f} s\n")
    assert (again.kafka, again.postgres) == (endpoints.kafka, endpoints.postgres), "ports are remembered"
    with superuser(again) as connection:
        connection.execute("DROP TABLE kept")


def test_all_four_answer(stack: Stack) -> None:
    endpoints = stack.up(services=list(ServiceName))
    assert endpoints.victoriametrics is not None
    assert endpoints.prometheus is not None
    assert set(states(stack).values()) == {ServiceState.RUNNING}
    assert set(endpoints.pids) == set(ServiceName)


def test_stores_of_statistics_that_cannot_be_had_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    for kept in CACHE.glob("kafka-*"):
        (cache / kept.name).symlink_to(kept)
    monkeypatch.setenv("PATH", str(tmp_path))
    stack = Stack("test-lean", tmp_path, SMALL.model_copy(update={"cache_dir": cache}))
    told: list[tuple[str, str]] = []
    try:
        endpoints = stack.up(lambda subject, doing: told.append((subject, doing)))
        assert endpoints.victoriametrics is None
        assert endpoints.prometheus is None
        assert any(subject == "prometheus" and "apt-get is not installed" in doing for subject, doing in told)
        superuser(endpoints).close()
        with pytest.raises(ConfigError, match="apt-get is not installed; install"):
            stack.up(services={"prometheus"})
    finally:
        stack.reset()


def test_nothing_listens_beyond_loopback_and_secrets_are_private(stack: Stack) -> None:
    endpoints = stack.up(services=NEEDED)
    ports = set(read_state(stack.paths.state).ports.values())
    listening: dict[int, set[str]] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            address, port = fields[1].rsplit(":", 1)
            if fields[3] == "0A" and int(port, 16) in ports:
                listening.setdefault(int(port, 16), set()).add(address)
    # Loopback as the kernel writes it, and as Java does, in IPv6.
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
    assert listening.keys() == ports
    assert all(addresses <= loopback for addresses in listening.values())

    for secret in ("postgres", "pg_sink", "pg_reader", "pg_migrator", "tick_key"):
        assert stat.S_IMODE((endpoints.secrets_dir / secret).stat().st_mode) == 0o600
    password = (endpoints.secrets_dir / "postgres").read_bytes().strip()
    for pid in endpoints.pids.values():
        assert password not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert password not in Path(f"/proc/{pid}/environ").read_bytes()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(endpoints.postgres, password="wrong")


@pytest.mark.parametrize("victim", [ServiceName.POSTGRES, ServiceName.KAFKA])
def test_a_killed_server_is_seen_and_repaired(stack: Stack, victim: ServiceName) -> None:
    before = stack.up(services=NEEDED)
    os.kill(before.pids[victim], signal.SIGKILL)
    deadline = time.monotonic() + 10
    while states(stack)[victim] is not ServiceState.CRASHED:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    after = stack.up(services=NEEDED)
    assert after.pids[victim] != before.pids[victim]
    untouched = NEEDED - {victim}
    assert {name: after.pids[name] for name in untouched} == {name: before.pids[name] for name in untouched}
    assert states(stack)[victim] is ServiceState.RUNNING


def test_servers_outlive_the_program_that_started_them(stack: Stack) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom infra.stack.settings import StackSettings\n"
        "from infra.stack.stack import Stack\n"
        "Stack(sys.argv[1], Path(sys.argv[2]), StackSettings(cache_dir=Path(sys.argv[3]), durable=False)).up("
        "services=())\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, stack.paths.name, str(stack.paths.base), str(CACHE)], check=True, timeout=120
    )
    found = states(stack)
    assert found[ServiceName.KAFKA] is ServiceState.RUNNING
    assert found[ServiceName.POSTGRES] is ServiceState.RUNNING


def test_two_stacks_side_by_side(make_stack: MakeStack) -> None:
    one, other = make_stack(), make_stack()
    first, second = one.up(services=NEEDED), other.up(services=NEEDED)
    assert {first.kafka, first.postgres}.isdisjoint({second.kafka, second.postgres})
    one.reset()
    assert not one.paths.root.exists()
    assert processes_below(one.paths.root) == []
    found = states(other)
    assert found[ServiceName.KAFKA] is ServiceState.RUNNING
    assert found[ServiceName.POSTGRES] is ServiceState.RUNNING


def test_a_taken_port_is_given_up(stack: Stack) -> None:
    before = stack.up(services=NEEDED)
    stack.down()
    taken = read_state(stack.paths.state).ports["postgres"]
    listen = (
        "import socket, time, sys\n"
        "s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\nprint('up', flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", listen, str(taken)], stdout=subprocess.PIPE) as squatter:
        try:
            assert squatter.stdout is not None
            assert squatter.stdout.readline() == b"up\n"
            after = stack.up(services=NEEDED)
            assert after.postgres != before.postgres
            assert after.kafka == before.kafka
            assert squatter.poll() is None
        finally:
            squatter.kill()


def test_a_stranger_under_a_remembered_pid_survives(stack: Stack, tmp_path: Path) -> None:
    stack.up(services=NEEDED)
    stack.down()
    stranger = spawn(
        [sys.executable, "-S", "-c", "import time; time.sleep(120)"], cwd=tmp_path, log=tmp_path / "log", environment={}
    )
    try:
        state = read_state(stack.paths.state)
        state.processes["kafka"] = msgspec.structs.replace(stranger, start_ticks=stranger.start_ticks - 1)
        write_state(stack.paths.state, state)
        assert states(stack)[ServiceName.KAFKA] is ServiceState.CRASHED
        stack.up(services=NEEDED)
        stack.down()
        assert identify(stranger.pid) == stranger
    finally:
        stop(stranger, first=signal.SIGKILL, patience_seconds=5)


def test_a_server_nobody_wrote_down_is_found_and_ended(stack: Stack) -> None:
    """As when the program was killed between starting a server and remembering it."""
    before = stack.up(services=NEEDED)
    state = read_state(stack.paths.state)
    state.processes.clear()
    write_state(stack.paths.state, state)
    after = stack.up(services=NEEDED)
    assert set(before.pids.values()).isdisjoint(after.pids.values())
    assert all(identify(pid) is None for pid in before.pids.values())
    assert MARKER.encode() in Path(f"/proc/{after.pids['postgres']}/environ").read_bytes()


def test_servers_of_the_users_own_are_checked_and_left_alone(make_stack: MakeStack, tmp_path: Path) -> None:
    own = make_stack().up(services=NEEDED)
    password = (own.secrets_dir / "postgres").read_text().strip()
    settings = StackSettings(
        cache_dir=CACHE, kafka_bootstrap=own.kafka, postgres_dsn=Secret(f"{own.postgres} password={password}")
    )
    guest = Stack("test-guest", tmp_path, settings)
    endpoints = guest.up(services=NEEDED)
    assert endpoints.pids == {}
    assert endpoints.kafka == own.kafka
    assert password not in (tmp_path / "test-guest" / "endpoints.json").read_text()
    superuser(endpoints).close()
    assert states(guest)[ServiceName.KAFKA] is ServiceState.EXTERNAL
    guest.reset()
    assert all(identify(pid) is not None for pid in own.pids.values())


def test_a_missing_server_of_the_users_own_is_a_sentence(tmp_path: Path) -> None:
    settings = StackSettings(
        cache_dir=CACHE, kafka_bootstrap="127.0.0.1:1", postgres_dsn=Secret("host=127.0.0.1 port=1 password=s3cret")
    )
    guest = Stack("test-guest", tmp_path, settings)
    with pytest.raises(NeighbourUnreachable) as caught:
        guest.up(services=NEEDED)
    assert "127.0.0.1" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert guest.endpoints() is None
