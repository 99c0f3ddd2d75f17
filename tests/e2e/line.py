"""A whole line for one test: own topics, own database, real processes, and a simulated fleet inside the test."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import psycopg
from psycopg import sql

from infra.agreement.compare import compare_tables, compare_truth, truth_of
from infra.agreement.fold import Fold
from infra.agreement.topics import fold_vm_changes
from infra.demo.measure import current_rows, history_rows
from infra.runtime.lifecycle import Stop
from infra.runtime.metrics import Metrics
from infra.runtime.settings import HttpSettings, KafkaSettings
from infra.runtime.topics import TopicSet
from infra.stack.endpoints import Endpoints
from infra.supervisor.health import is_ready
from infra.supervisor.line import LineOptions, parts_of, write_settings
from infra.supervisor.prepare import prepare
from infra.supervisor.running import RunningLine
from producers.agent.clock import SystemClock
from producers.agent.settings import AgentSettings
from producers.simulator.fleet import Fleet, Script
from producers.simulator.life import Life, parse_phases
from producers.simulator.runner import SimulatedFleetAgent

START_SECONDS = 60.0
QUIET_SECONDS = 1.5
"""Nothing new in the topic for so long, and the sink at its end: everything has arrived. A pass through the whole
line takes a tenth of it."""


class WholeLine:
    """Servers' parts, processes and reader of one test; use as a context."""

    def __init__(
        self,
        endpoints: Endpoints,
        folder: Path,
        *,
        simulator: Sequence[str] | None = None,
        libvirt: Sequence[str] | None = None,
    ) -> None:
        self._name = f"line{uuid.uuid4().hex[:10]}"
        self._admin = endpoints
        database = psycopg.conninfo.make_conninfo(endpoints.postgres, dbname=self._name)
        self.endpoints = msgspec.structs.replace(endpoints, postgres=database)
        self.options = LineOptions(topic_prefix=f"{self._name}.", simulator=simulator, libvirt=libvirt)
        self.kafka = KafkaSettings(bootstrap=endpoints.kafka, topic_prefix=self.options.topic_prefix)
        self.topics = TopicSet.of(self.kafka, self.options.topics)
        self._folder = folder
        self.said: list[tuple[str, str]] = []
        self.running: RunningLine | None = None

    def __enter__(self) -> Self:
        with self._superuser(self._admin.postgres) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self._name)))
        prepare(self.endpoints, self.options, lambda said: None)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is not None:
            print("\n".join(f"{name} | {line}" for name, line in self.said[-150:]))
        with self._superuser(self._admin.postgres) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(self._name)))

    def start(self) -> None:
        """Start every part and wait until all are ready."""
        config = write_settings(self._folder / "line.toml", self.endpoints, self.options)
        self.running = RunningLine(
            parts_of(config, self.options), lambda name, line: self.said.append((name, line))
        ).__enter__()
        self.running.wait_ready(START_SECONDS)

    def stop(self) -> None:
        """Stop every part in order; safe to repeat."""
        if self.running is not None:
            self.running.stop()

    def pid_of(self, name: str) -> int:
        """Process id of a part."""
        assert self.running is not None
        pid = next(state.pid for state in self.running.states() if state.name == name)
        assert pid is not None
        return pid

    def lives_again(self, name: str, old_pid: int) -> bool:
        """True once another process of this part is ready."""
        assert self.running is not None
        state = next(state for state in self.running.states() if state.name == name)
        return state.pid not in (None, old_pid) and is_ready(state)

    def restarts(self) -> dict[str, int]:
        """How often each part was started again."""
        assert self.running is not None
        return {state.name: state.restarts for state in self.running.states()}

    def _superuser(self, dsn: str) -> psycopg.Connection[dict[str, Any]]:
        password = (self._admin.secrets_dir / "postgres").read_text().strip()
        return psycopg.connect(dsn, password=password, autocommit=True, row_factory=psycopg.rows.dict_row)

    def database(self) -> psycopg.Connection[dict[str, Any]]:
        """A connection to the line's database."""
        return self._superuser(self.endpoints.postgres)

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """Rows of a query."""
        with self.database() as connection:
            return connection.execute(query.encode(), values).fetchall()

    def agent_settings(self) -> AgentSettings:
        """Settings for an agent inside the test."""
        return AgentSettings(kafka=self.kafka, http=HttpSettings(port=None), snapshot_interval_seconds=1.0)

    def settle(self, seconds: float = 60.0) -> Fold:
        """The fold of vm.changes once nothing new came for a while and every change of it is in the database."""
        deadline = time.monotonic() + seconds
        fold = fold_vm_changes(self.kafka, self.topics)
        while True:
            time.sleep(QUIET_SECONDS)
            again = fold_vm_changes(self.kafka, self.topics)
            with self.database() as connection:
                stored = len(history_rows(connection))
            if again.records == fold.records and stored == len(again.distinct):
                return again
            fold = again
            assert time.monotonic() < deadline, f"{stored} of {len(again.distinct)} changes stored, still not quiet"

    def until(self, holds: Callable[[], bool], seconds: float = 30.0, what: str = "it") -> None:
        """Return once something holds."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"{what} did not come true within {seconds} s"
            time.sleep(0.1)

    def disagreements(self, agent: SimulatedFleetAgent | None = None) -> list[str]:
        """Everything on which fleet, topic and tables differ once it is quiet."""
        fold = self.settle()
        with self.database() as connection:
            found = [*fold.problems, *compare_tables(fold, current_rows(connection), history_rows(connection))]
        if agent is not None:
            truth = agent.truth()
            known = truth_of(truth.vms)
            found += compare_truth(fold, known, truth.hosts.keys())
        return found


class FleetInTest:
    """A simulated fleet with its agents in a thread of the test."""

    def __init__(
        self,
        line: WholeLine,
        *,
        hosts: int,
        vms: int,
        seed: int = 7,
        life: str = "",
        life_rate: float = 0.0,
        again: Fleet | None = None,
    ) -> None:
        """`life`: phases, after which the fleet stays stable; without a rate only scripts happen.

        `again`: a fleet whose agents were stopped before and start anew.
        """
        self.fleet = again or Fleet(hosts=hosts, vms=vms, seed=seed, clock=SystemClock())
        phases = parse_phases(life)
        self._life = Life(self.fleet, rate=life_rate, phases=phases, seed=seed) if life_rate else None
        self.agent = SimulatedFleetAgent(line.agent_settings(), self.fleet, life=self._life, metrics=Metrics("agent"))
        self._stop = Stop()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="fleet")

    def _run(self) -> None:
        try:
            self.agent.run(self._stop)
        except BaseException as error:
            self._failure = error

    def __enter__(self) -> Self:
        self.agent.setup()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=30)
        self.agent.close()
        assert not self._thread.is_alive()
        assert self._failure is None

    def until_stable(self, seconds: float) -> None:
        """Return once the last phase of life is over and everything that happened is in the log."""
        deadline = time.monotonic() + seconds
        while not self.agent.call(lambda: self._life is None or self._life.stable):
            assert time.monotonic() < deadline, f"still life after {seconds} s"
            time.sleep(0.1)
        self.agent.settle(quiet=True)

    def do(self, script: Script, *, gap_seconds: float | None = None) -> None:
        """Play a script, step by step."""
        self.agent.do(script, gap_seconds=gap_seconds)
