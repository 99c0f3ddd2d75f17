"""An agent of one host: watch the source, tell Kafka, listen for resync requests.

Three threads that never wait for one another: `source` reads the hypervisor and may hang in it, `reports` sends and
keeps the heartbeat, `resync` listens. They meet in the reporter, under one lock that is never held during a call
into the source or to a server.
"""

import os
import random
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import TypeVar

from infra.runtime.backoff import Backoff, Retry
from infra.runtime.errors import FatalError, TransientError
from infra.runtime.http import WELL, Health, HealthServer
from infra.runtime.lifecycle import Stop
from infra.runtime.log import get_logger
from infra.runtime.metrics import Metrics
from infra.runtime.topics import HOST_REPORTS, RESYNC_REQUESTS, TopicAdmin
from producers.agent.clock import Clock, Instant, SystemClock
from producers.agent.publish import Delivery, Publisher
from producers.agent.reporter import Reporter
from producers.agent.resync import CATCH_UP_SECONDS, ResyncListener
from producers.agent.settings import AgentSettings
from producers.agent.source import Hints, Source, SourceUnavailable
from producers.agent.telling import AgentMetrics
from schemas.facets import HostFacet
from schemas.facets.host import HostReachability
from schemas.ids import uuid_text
from schemas.resync import ResyncRequest

WAIT_SECONDS = 1.0
"""How long the source may sleep before the agent looks whether it has to stop or to list."""
IDLE_SECONDS = 0.5
"""How long the reports thread sleeps at most; every event wakes it."""
SOURCE_BACKOFF = Backoff(first_seconds=0.2, cap_seconds=10.0)

T = TypeVar("T")

_log = get_logger(__name__)


def new_id() -> bytes:
    """16 random bytes in the form of a version 4 UUID."""
    raw = bytearray(os.urandom(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    return bytes(raw)


class AgentService:
    """One host. `setup` may be retried; `run` returns when stopped, after a farewell; `close` is idempotent."""

    def __init__(
        self, settings: AgentSettings, source: Source, *, clock: Clock | None = None, metrics: Metrics | None = None
    ) -> None:
        self._settings = settings
        self._source = source
        self._clock = clock or SystemClock()
        metrics = metrics or Metrics("agent")
        self._told = AgentMetrics(metrics)
        self._changed = threading.Condition()
        self._publisher = Publisher(
            settings.kafka, delivery_timeout_seconds=settings.delivery_timeout_seconds, wake=self._wake
        )
        self._health = HealthServer(settings.http, metrics, ready=self._ready)
        self._serving = False
        self._reporter: Reporter | None = None
        self._listener: ResyncListener | None = None
        self._caught_up = threading.Event()
        self._busy_since: Instant | None = None
        self._stuck = False
        self._failure: BaseException | None = None

    def setup(self) -> None:
        """Check topics and start the health page. Raises NeighbourUnreachable, TopicMismatch, ConfigError.

        A source that is away does not count: the agent has to live without it, to say so.
        """
        TopicAdmin(self._settings.kafka, self._settings.topics).require([HOST_REPORTS, RESYNC_REQUESTS])
        self._publisher.setup()
        if not self._serving:
            self._health.start()
            self._serving = True

    def run(self, stop: Stop) -> None:
        """Report until asked to stop. Raises what ended one of its threads."""
        halt = threading.Event()
        stop.on_set(self._wake)
        threads = [
            threading.Thread(target=self._guarded, args=(self._watch, halt), name="source", daemon=True),
            threading.Thread(target=self._guarded, args=(self._report, halt), name="reports", daemon=True),
            threading.Thread(target=self._guarded, args=(self._listen, halt), name="resync", daemon=True),
        ]
        for thread in threads:
            thread.start()
        with self._changed:
            self._changed.wait_for(lambda: stop.is_set() or self._failure is not None)
        halt.set()
        self._wake()
        for thread in threads[1:]:
            thread.join()
        if self._failure is not None:
            raise self._failure
        self._leave()

    def close(self) -> None:
        """Give everything back; safe to repeat and after a failed set-up."""
        self._publisher.close()
        if self._listener is not None:
            self._listener.close()
        self._source.close()
        self._health.close()

    def _guarded(self, loop: Callable[[threading.Event], None], halt: threading.Event) -> None:
        try:
            loop(halt)
        except BaseException as failure:
            with self._changed:
                self._failure = failure
                self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _ready(self) -> Health:
        reporter = self._reporter
        if reporter is None or not reporter.state.opened:
            return Health(ok=False, reasons=("no complete listing was reported yet",))
        return WELL if not self._stuck else Health(ok=False, reasons=("the source does not answer",))

    def _watch(self, halt: threading.Event) -> None:
        """The source thread: connect, follow, and say so when that is not possible."""
        retry = Retry(SOURCE_BACKOFF)
        while not halt.is_set():
            try:
                self._connect()
                self._follow(halt, retry)
            except SourceUnavailable as problem:
                self._told.source_failed()
                wait = retry.failed(self._clock.now().monotonic_ns / 1e9, random.random)
                _log.warning("source_unavailable", error=str(problem), next_try_seconds=round(wait, 2))
                self._tell_host()
                halt.wait(wait)

    def _connect(self) -> None:
        self._call(self._source.setup)
        identity = self._source.identity()
        known = self._reporter.state.identity if self._reporter is not None else None
        if known is not None and known.host_id != identity.host_id:
            raise FatalError(
                f"the source now says it is another host, {uuid_text(identity.host_id)}",
                where=f"agent of {uuid_text(known.host_id)}",
                advice="the agent starts anew under the new id",
            )
        if known != identity:
            with self._changed:
                self._reporter = Reporter(identity, self._settings.policy(), new_id, self._clock.now())
                self._changed.notify_all()
            # Old requests are worth a moment: the first snapshot then answers them, and no second one is needed.
            self._caught_up.wait(CATCH_UP_SECONDS)
        with self._changed:
            if self._reporter is not None:
                self._reporter.want_listing()
        self._tell_host()

    def _listen(self, halt: threading.Event) -> None:
        """The resync thread: as soon as it is known who we are, and again whenever Kafka was away."""
        with self._changed:
            self._changed.wait_for(lambda: halt.is_set() or self._reporter is not None)
            reporter = self._reporter
        if reporter is None:
            return
        host_id = reporter.state.identity.host_id
        self._listener = ResyncListener(self._settings.kafka, self._settings.topics, [host_id], self._asked)
        retry = Retry(Backoff())
        while not halt.is_set():
            try:
                self._listener.setup()
            except TransientError as problem:
                wait = retry.failed(self._clock.now().monotonic_ns / 1e9, random.random)
                _log.warning("resync_unreachable", error=str(problem), next_try_seconds=round(wait, 2))
                halt.wait(wait)
                continue
            self._listener.catch_up()
            self._caught_up.set()
            self._listener.run(halt)

    def _follow(self, halt: threading.Event, retry: Retry) -> None:
        reporter = self._reporter
        if reporter is None:
            return
        while not halt.is_set():
            with self._changed:
                listing_due = reporter.wants_listing(self._clock.now())
            if listing_due:
                self._list(reporter)
                retry.succeeded()
            self._take_hints(reporter, self._source.wait(WAIT_SECONDS))
            if self._stuck:
                self._stuck = False
                self._tell_host()

    def _list(self, reporter: Reporter) -> None:
        began = self._clock.now()
        listing = self._call(self._source.list)
        now = self._clock.now()
        self._told.listed(now.seconds_since(began))
        with self._changed:
            reporter.listed(listing, now)
            self._changed.notify_all()
        self._tell_host()

    def _take_hints(self, reporter: Reporter, hints: Hints) -> None:
        if hints.relist:
            with self._changed:
                reporter.want_listing()
        if hints.facets:
            with self._changed:
                reporter.observed_host(hints.facets, self._clock.now())
                self._changed.notify_all()
        if hints.host:
            self._tell_host()
        if hints.dirty:
            self._told.hinted(len(hints.dirty))
            reading = self._call(lambda: self._source.read(hints.dirty))
            with self._changed:
                reporter.observed(reading)
                self._changed.notify_all()

    def _tell_host(self) -> None:
        facets = self._source.host_facets()
        with self._changed:
            if self._reporter is not None:
                self._reporter.observed_host(facets, self._clock.now())
                self._changed.notify_all()

    def _call(self, call: Callable[[], T]) -> T:
        self._busy_since = self._clock.now()
        try:
            return call()
        finally:
            self._busy_since = None

    def _report(self, halt: threading.Event) -> None:
        """The reports thread: everything that is sent, and the heartbeat."""
        while not halt.is_set():
            sent = self._send_next()
            if not sent:
                with self._changed:
                    self._changed.wait(IDLE_SECONDS)

    def _send_next(self) -> bool:
        with self._changed:
            now = self._clock.now()
            reporter = self._reporter
            if reporter is None:
                return False
            for delivery in self._publisher.deliveries():
                self._decided(reporter, delivery, now)
            if reporter.renew(now):
                _log.warning("epoch_begun", reason="a report was lost")
            self._notice_hang(reporter, now)
            report = reporter.next_report(now)
            self._told.show(
                known=reporter.state.vm_count,
                pending=reporter.outgoing.waiting,
                counts=asdict(reporter.outgoing.counts),
                cut=reporter.state.cut,
                unfit=reporter.state.unfit,
            )
        if report is None:
            return False
        self._publisher.send(report)
        return True

    def _decided(self, reporter: Reporter, delivery: Delivery, now: Instant) -> None:
        self._told.decided(delivery, now)
        if delivery.error is None:
            reporter.delivered(delivery.epoch, delivery.seq)
            return
        _log.error("report_lost", seq=delivery.seq, error=delivery.error.str(), code=delivery.error.name())
        reporter.failed(delivery.epoch, delivery.seq, now)

    def _notice_hang(self, reporter: Reporter, now: Instant) -> None:
        """A call into the source can block without limit; then nobody else would say that the source is away."""
        since = self._busy_since
        if since is None or self._stuck or now.seconds_since(since) < self._settings.source_stuck_seconds:
            return
        self._stuck = True
        reason = f"no answer for more than {self._settings.source_stuck_seconds:.0f} s"
        _log.error("source_stuck", reason=reason)
        reporter.observed_host(
            {HostFacet.REACHABILITY: HostReachability(source_connected=False, reason=reason, since=since.wall_ns)}, now
        )

    def _asked(self, request: ResyncRequest) -> None:
        with self._changed:
            if self._reporter is not None:
                self._reporter.asked(request)

    def _leave(self) -> None:
        """Send what was observed, then the farewell; both only for a short time."""
        deadline = self._clock.now().later(self._settings.drain_seconds)
        while (now := self._clock.now()).monotonic_ns < deadline.monotonic_ns:
            if self._send_next():
                continue
            if self._reporter is None or self._reporter.settled:
                break
            with self._changed:
                self._changed.wait(0.05)
        if self._reporter is not None and (last := self._reporter.farewell(now, "stopped")) is not None:
            self._publisher.send(last)
        self._publisher.flush(self._settings.drain_seconds)
