"""The agents of a whole simulated fleet in one process: one producer, three threads, however many hosts.

One loop owns the fleet and every host's reporter: it lets happen what is due, reads the hosts that stirred, sends what
the reporters say, and sleeps until the next of these. Nobody else touches them; other threads post calls into it.
"""

import gc
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from infra.runtime.backoff import Backoff, Retry
from infra.runtime.errors import TransientError
from infra.runtime.http import WELL, Health, HealthServer
from infra.runtime.lifecycle import Stop
from infra.runtime.log import get_logger
from infra.runtime.metrics import Metrics
from infra.runtime.topics import HOST_REPORTS, RESYNC_REQUESTS, TopicAdmin
from producers.agent.publish import Publisher
from producers.agent.resync import ResyncListener
from producers.agent.service import new_id
from producers.agent.settings import AgentSettings
from producers.agent.telling import AgentMetrics
from producers.simulator.agents import FleetReporters
from producers.simulator.fleet import Fleet, Script
from producers.simulator.life import Life
from producers.simulator.truth import Truth, TruthFile, truth_of, write_truth
from schemas.ids import HostId
from schemas.resync import ResyncRequest

LONGEST_SLEEP_SECONDS = 0.5
SHORTEST_SLEEP_SECONDS = 0.005
"""Between two turns, whatever wakes the loop: confirmations come one by one, and a turn costs some 100 µs. What is due
within this time happens together, at the end of it, and shares a report where it belongs to one host."""
POLL_SECONDS = 0.005
SHOW_SECONDS = 1.0

T = TypeVar("T")

_log = get_logger(__name__)


class SimulatedFleetAgent:
    """`setup`, `run(stop)`, `close`; while it runs, `do`, `settle`, `truth` and `counts` may be called from any thread.

    The fleet's clock has to be the machine's: what is sent to Kafka is sent in real time.
    """

    def __init__(
        self,
        settings: AgentSettings,
        fleet: Fleet,
        *,
        life: Life | None = None,
        truth_file: Path | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.fleet = fleet
        self._settings = settings
        self._life = life
        self._truth_file = truth_file
        self._clock = fleet.clock
        metrics = metrics or Metrics("agent")
        self._told = AgentMetrics(metrics)
        self._wake = threading.Event()
        self._publisher = Publisher(
            settings.kafka, delivery_timeout_seconds=settings.delivery_timeout_seconds, wake=self._wake.set
        )
        self._listener = ResyncListener(
            settings.kafka, settings.topics, [host.host_id for host in fleet.hosts], self._asked
        )
        self._agents = FleetReporters(fleet, settings.policy(), new_id)
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._requests: SimpleQueue[ResyncRequest] = SimpleQueue()
        self._health = HealthServer(settings.http, metrics, ready=self._ready)
        self._serving = self._running = self._frozen = False
        self._shown_at = self._stable_told = 0
        self._failure: BaseException | None = None

    def setup(self) -> None:
        """Check topics, connect, start the health page. Raises NeighbourUnreachable, TopicMismatch, ConfigError."""
        TopicAdmin(self._settings.kafka, self._settings.topics).require([HOST_REPORTS, RESYNC_REQUESTS])
        self._listener.setup()
        self._publisher.setup()
        if not self._serving:
            self._health.start()
            self._serving = True

    def run(self, stop: Stop) -> None:
        """Play the fleet and report until asked to stop."""
        stop.on_set(self._wake.set)
        self._listener.catch_up()
        listening = threading.Thread(target=self._listen, args=(stop,), name="resync", daemon=True)
        listening.start()
        self._running = True
        try:
            while not stop.is_set() and self._failure is None:
                self._turn()
                self._sleep()
            if self._failure is not None:
                raise self._failure
            self._leave()
        finally:
            self._running = False
            self._refuse_calls()
        listening.join(LONGEST_SLEEP_SECONDS * 4)

    def close(self) -> None:
        """Give everything back; safe to repeat and after a failed set-up."""
        self._publisher.close()
        self._listener.close()
        self._health.close()

    def do(self, script: Script, *, gap_seconds: float | None = None, timeout_seconds: float = 30.0) -> None:
        """Play a script so that each step's reports are in the log before the next step happens.

        `gap_seconds` replaces the script's own delays between steps. Raises TimeoutError.
        """
        self.call(lambda: self._begin(script))
        try:
            for number, step in enumerate(script.steps):
                time.sleep(step.after_seconds if gap_seconds is None else gap_seconds if number else 0.0)
                self.call(partial(self.fleet.perform, step))
                self.settle(timeout_seconds=timeout_seconds)
        finally:
            self.call(lambda: self.fleet.finish(script))
        self.settle(timeout_seconds=timeout_seconds, quiet=self._life is None or self._life.stable)

    def _begin(self, script: Script) -> None:
        self.fleet.busy.update(script.vms)
        self.fleet.running_scripts += 1

    def settle(self, *, timeout_seconds: float = 30.0, quiet: bool = False) -> None:
        """Return once everything that happened is confirmed by Kafka; with `quiet` also every script has ended."""
        deadline = time.monotonic() + timeout_seconds
        while not self.call(lambda: self._agents.settled and not (quiet and self.fleet.running_scripts)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the simulated agents did not settle within {timeout_seconds} s")
            time.sleep(POLL_SECONDS)

    def truth(self) -> Truth:
        """The ground truth now."""
        return self.call(lambda: truth_of(self.fleet))

    def counts(self) -> dict[str, int]:
        """What was sent so far, by name."""
        return self.call(self._agents.counts)

    def digests(self) -> dict[HostId, tuple[int, int]]:
        """Digest and number of VMs that each running agent believes both sides to have."""
        return self.call(self._agents.digests)

    def call(self, action: Callable[[], T], *, timeout_seconds: float = 60.0) -> T:
        """Run something in the loop, between two turns; at once when there is no loop."""
        if not self._running:
            return action()
        future: Future[T] = Future()
        self._calls.put((future, action))
        self._wake.set()
        return future.result(timeout_seconds)

    def _turn(self) -> None:
        self._answer_calls()
        if self._life is not None:
            self._life.advance()
        self.fleet.advance()
        now = self._clock.now()
        for delivery in self._publisher.deliveries():
            self._told.decided(delivery, now)
            if delivery.error is not None:
                _log.error("report_lost", seq=delivery.seq, error=delivery.error.str(), code=delivery.error.name())
            self._agents.decided(delivery, now)
        self._agents.look(now, self._publisher.send)
        while not self._requests.empty():
            self._agents.asked(self._requests.get())
        self._agents.serve(now, self._publisher.send)
        self._note_stability()
        if (now.monotonic_ns - self._shown_at) / 1e9 > SHOW_SECONDS:
            self._shown_at = now.monotonic_ns
            self._show()

    def _answer_calls(self) -> None:
        while True:
            try:
                future, action = self._calls.get_nowait()
            except Empty:
                return
            try:
                future.set_result(action())
            except BaseException as error:
                future.set_exception(error)

    def _refuse_calls(self) -> None:
        while not self._calls.empty():
            future, _ = self._calls.get()
            future.set_exception(RuntimeError("the simulated fleet has stopped"))

    def _sleep(self) -> None:
        due = [self.fleet.next_due_ns(), self._agents.next_due_ns()]
        if self._life is not None:
            due.append(self._life.next_due_ns())
        next_ns = min((moment for moment in due if moment is not None), default=None)
        sleep_seconds = LONGEST_SLEEP_SECONDS
        if next_ns is not None:
            sleep_seconds = min(sleep_seconds, (next_ns - self._clock.now().monotonic_ns) / 1e9)
        time.sleep(SHORTEST_SLEEP_SECONDS)
        if sleep_seconds > SHORTEST_SLEEP_SECONDS:
            self._wake.wait(sleep_seconds - SHORTEST_SLEEP_SECONDS)
        self._wake.clear()

    def _show(self) -> None:
        known = sum(len(host.runs) for host in self.fleet.hosts if host.reports)
        self._told.show(known=known, pending=self._agents.waiting(), counts=self._agents.counts(), cut={})
        if not self._frozen and self._agents.opened:
            # The fleet and what was published live as long as the process: the collector need not walk them again.
            self._frozen = True
            gc.collect()
            gc.freeze()
            _log.info("fleet_reported", hosts=len(self.fleet.hosts), vms=len(self.fleet.vms))

    def _note_stability(self) -> None:
        life = self._life
        if life is None or not life.stable or life.stable_phases == self._stable_told or not self._agents.settled:
            return
        self._stable_told = life.stable_phases
        _log.info("fleet_stable", phase=life.stable_phases)
        self._write_truth(final=False)

    def _write_truth(self, *, final: bool) -> None:
        if self._truth_file is None:
            return
        life, now = self._life, self._clock.now()
        truth = truth_of(self.fleet)
        since = life.stable_since_ns if life is not None and life.stable_since_ns is not None else now.wall_ns
        content = TruthFile(
            phase=life.stable_phases if life is not None else 0,
            final=final,
            stable_since_ns=since,
            stable_until_ns=None if life is None or final else life.stable_until_ns,
            written_at_ns=now.wall_ns,
            seed=self.fleet.seed,
            steps_done=self.fleet.steps_done,
            counters=self._agents.counts(),
            vms=truth.vms,
            hosts=truth.hosts,
        )
        write_truth(self._truth_file, content)

    def _leave(self) -> None:
        """Send what has happened, then every host's farewell, both only for a short time; then tell the truth."""
        deadline = self._clock.now().later(self._settings.drain_seconds)
        self._life = None
        while not self._agents.settled and self._clock.now().monotonic_ns < deadline.monotonic_ns:
            self._turn()
            self._wake.wait(POLL_SECONDS)
            self._wake.clear()
        self._write_truth(final=True)
        self._agents.farewells(self._clock.now(), self._publisher.send)
        self._publisher.flush(self._settings.drain_seconds)

    def _listen(self, stop: Stop) -> None:
        retry = Retry(Backoff())
        try:
            while not stop.is_set():
                try:
                    self._listener.run(stop)
                except TransientError as problem:
                    wait = retry.failed(time.monotonic(), random.random)
                    _log.warning("resync_unreachable", error=str(problem), next_try_seconds=round(wait, 2))
                    stop.wait(wait)
        except BaseException as failure:
            self._failure = failure
            self._wake.set()

    def _asked(self, request: ResyncRequest) -> None:
        self._requests.put(request)
        self._wake.set()

    def _ready(self) -> Health:
        if self._agents.opened:
            return WELL
        return Health(ok=False, reasons=("not every host was reported yet",))
