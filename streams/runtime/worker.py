"""The worker of a stage: checks, builds, runs and ends one process.

A `Service` for `infra.runtime.lifecycle.run_service`, which owns signals, set-up retries, the hard stop deadline and
exit codes. Inside, Faust's worker is started without its command line, banner, signal handlers and logging.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import faust
import uvloop

from infra.runtime.errors import FatalError
from infra.runtime.http import Health, HealthServer
from infra.runtime.lifecycle import Stop
from infra.runtime.log import get_logger
from infra.runtime.metrics import Metrics
from infra.runtime.topics import ALL_TOPICS, FoundTopic, TopicAdmin
from infra.runtime.watchdog import Heartbeat, Watchdog
from streams.runtime import selftest
from streams.runtime.app import StreamApp, make_app
from streams.runtime.copier import Copier, CopySender, CopySigner, KafkaIntents
from streams.runtime.ending import end_process
from streams.runtime.ends import InputEnds
from streams.runtime.guards import LOOP_LIMIT_SECONDS, Fence, Progress, Recovery, readiness
from streams.runtime.health import Figures
from streams.runtime.isolation import Isolation
from streams.runtime.loading import Loaded, TableReader
from streams.runtime.ownership import Ownership
from streams.runtime.reassertion import Reassertion
from streams.runtime.sender import KafkaSender, Limits
from streams.runtime.settings import HostsStreamSettings, StreamSettings
from streams.runtime.stage import IntentStage, Stage, TickedStage
from streams.runtime.ticks import Ticker, TickSender, TickSigner, new_owner
from streams.runtime.versions import require_tested_versions
from streams.runtime.wiring import PLAIN, Wiring

_log = get_logger(__name__)

PULSE_SECONDS = 1.0
"""One timer for everything that has to be looked at: fence, heartbeats, metrics."""

FAUST_SUBCLASSES = ("app", "consumer", "table", "worker")
"""Modules of ours whose classes Faust gives a logger by module name, and logs its own life-cycle there."""
NOT_STARTED = Health(ok=False, reasons=("not started yet",))


class BuildStage(Protocol):
    """What `streams.<stage>.app` exports as `build`."""

    def __call__(self, settings: Any, partitions: int, topic_ids: Mapping[str, str]) -> Stage:
        """The stage for these settings; `topic_ids` by topic constant, those that exist."""
        ...


class FaustWorker(faust.Worker):  # type: ignore[misc]
    """Faust's worker without its signal handlers: the process has its own. Nor does it write to the terminal."""

    def __init__(self, app: StreamApp, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(app, quiet=True, override_logging=False, redirect_stdouts=False, loglevel="WARNING", loop=loop)
        self.spinner = None

    def install_signal_handlers(self) -> None:
        """The lifecycle has them."""

    def ask_to_stop(self) -> None:
        """Begin an orderly stop; in the loop."""
        self._schedule_shutdown(signal.SIGTERM)


class StreamService:
    """One worker process of one stage."""

    def __init__(self, settings: StreamSettings, build: BuildStage, wiring: Wiring = PLAIN) -> None:
        self._settings = settings
        self._build = build
        self._wiring = wiring
        self._metrics = Metrics(settings.component)
        self._watchdog = Watchdog()
        self._line: Line | None = None
        self._http: HealthServer | None = None
        self._stage: Stage | None = None
        self._topics: Mapping[str, FoundTopic] = {}

    def setup(self) -> None:
        """Prove that versions, topics and partitions are what the worker relies on. Nothing is committed."""
        settings = self._settings
        require_tested_versions()
        selftest.require_decompression()
        for module in FAUST_SUBCLASSES:
            logging.getLogger(f"streams.runtime.{module}").setLevel(logging.WARNING)
        if self._http is None:
            self._http = HealthServer(settings.http, self._metrics, ready=self._ready)
            self._http.start()
        producer = selftest.selftest_producer(settings)
        admin = TopicAdmin(settings.kafka, settings.topics)
        topic_ids = admin.topic_ids(ALL_TOPICS)
        self._stage = self._build(settings, settings.topics.partitions, topic_ids)
        selftest.require_stage(self._stage, settings.component)
        self._topics = selftest.require_topics(admin, self._stage)
        selftest.require_partitions(settings, self._stage, producer)

    def run(self, stop: Stop) -> None:
        """Work until asked to stop; every input in flight is then acknowledged and committed."""
        if self._stage is None:
            raise RuntimeError("run before setup")
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        line = self._line = Line(self._settings, self._stage, self._topics, self._metrics, loop, self._wiring)
        line.watch(self._watchdog)
        self._watchdog.start()
        stop.on_set(partial(loop.call_soon_threadsafe, line.worker.ask_to_stop))
        line.run(loop)

    def close(self) -> None:
        """Give everything back."""
        self._watchdog.close()
        if self._http is not None:
            self._http.close()
        if self._line is not None:
            self._line.close()

    def _ready(self) -> Health:
        line = self._line
        return NOT_STARTED if line is None else readiness(line.ownership)


class Line:
    """Everything of a running worker, wired together. Made inside `run`, with the loop set."""

    def __init__(
        self,
        settings: StreamSettings,
        stage: Stage,
        topics: Mapping[str, FoundTopic],
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
        wiring: Wiring = PLAIN,
    ) -> None:
        self._settings = settings
        input_topic = settings.kafka.topic_prefix + stage.inputs[0]
        self._figures = Figures(metrics, stage)
        self._fence = Fence(settings.session_timeout_seconds)
        sender = KafkaSender(
            settings.kafka,
            table_topic=stage.table_topic,
            topics=topics,
            delivery_timeout_seconds=settings.delivery_timeout_seconds,
            check_fence=self._fence.check,
        )
        limits = Limits(selftest.limits_bytes(topics), stage.table_topic)
        self.outbox = wiring.outbox(
            wiring.sender(sender),
            max_in_flight=settings.max_in_flight,
            check_fence=self._fence.check,
            on_cycle=self._figures.cycle,
            check_batch=limits.check,
        )
        reader = TableReader(settings.kafka, stage, group=settings.group)
        self.ownership = Ownership(
            wiring.reader(reader),
            self.outbox,
            input_topic=input_topic,
            on_ready=self._settled,
            on_loaded=self._loaded,
        )
        lanes = self.ownership.lanes
        self._reassertion = Reassertion(
            settings.kafka,
            stage.table_topic,
            lanes,
            sender,
            group=settings.group,
            delivery_timeout_seconds=settings.delivery_timeout_seconds,
        )
        isolation = Isolation(lanes, self.outbox, self.ownership.reload, input_topic=input_topic, fits=limits.fits)
        self._intake = wiring.intake(
            lanes, self.outbox, input_topic=input_topic, log_start=self._log_start(reader), isolation=isolation
        )
        self._progress = Progress(lanes, deadline_seconds=settings.progress_deadline_seconds)
        self._ends = InputEnds(settings.kafka, input_topic, lanes, self._progress.ends_are)
        self._ticker = self._make_ticker(stage, topics, input_topic)
        self._copier = self._make_copier(stage, input_topic)
        self.app: StreamApp = make_app(settings, stage, self.ownership, self._intake, end_process, wiring.transport)
        self.worker = FaustWorker(self.app, loop)
        self._heartbeat: Heartbeat | None = None

    def watch(self, watchdog: Watchdog) -> None:
        """Put what can get stuck under the watchdog."""
        self._heartbeat = watchdog.heartbeat("the event loop", limit_seconds=LOOP_LIMIT_SECONDS)
        recovery = Recovery(self.ownership, deadline_seconds=self._settings.recovery_deadline_seconds)
        watchdog.probe(recovery.stuck)
        watchdog.probe(self._progress.stuck)
        watchdog.probe(self._coordination_failure)

    def run(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run the loop until the worker has stopped."""
        tasks = [loop.create_task(self.outbox.run()), loop.create_task(self._pulse())]
        tasks.append(loop.create_task(self._ends.run()))
        if self._ticker is not None:
            tasks.append(loop.create_task(self._ticker.run()))
        if self._copier is not None:
            tasks.append(loop.create_task(self._copier.run()))
        try:
            loop.run_until_complete(self.worker.start())
        finally:
            self.worker.stop_and_shutdown()

    def close(self) -> None:
        """Give the threads back."""
        self.outbox.close()
        self.ownership.close()
        self._ends.close()
        self._reassertion.close()
        if self._ticker is not None:
            self._ticker.close()
        if self._copier is not None:
            self._copier.close()

    async def _pulse(self) -> None:
        loop = asyncio.get_running_loop()
        due_at = loop.time() + PULSE_SECONDS
        received = 0
        while True:
            await asyncio.sleep(PULSE_SECONDS)
            try:
                self._figures.loop_was_late(loop.time() - due_at)
                due_at = loop.time() + PULSE_SECONDS
                self._fence.beat()
                if self._heartbeat is not None:
                    self._heartbeat.beat()
                if self.worker.crashed:
                    raise FatalError("Faust crashed", where="stream worker") from self.worker.crash_reason
                self._adapt((self._intake.received - received) / PULSE_SECONDS)
                received = self._intake.received
                ticks = self._ticker.written if self._ticker is not None else 0
                self._figures.pick_up(self.ownership, self._intake, self.outbox, self._progress, ticks)
                self._figures.late_rows(self._reassertion.rows)
            except Exception as error:
                self.outbox.fence()
                end_process(error)

    def _loaded(self, loaded: Loaded, seconds: float) -> None:
        self._figures.loaded(loaded, seconds)
        self._reassertion.begin(loaded.ends)

    def _settled(self) -> None:
        self.app.consumer.settled()

    def _adapt(self, records_per_second: float) -> None:
        consumer = self.app._consumer
        if consumer is not None:
            consumer.adapt(records_per_second)

    def _coordination_failure(self) -> str | None:
        consumer = self.app._consumer
        failure: str | None = consumer.coordination_failure() if consumer is not None else None
        return failure

    def _log_start(self, reader: TableReader) -> Callable[[int], Any]:
        async def ask(partition: int) -> int:
            return await asyncio.get_running_loop().run_in_executor(None, reader.log_start, partition)

        return ask

    def _make_ticker(self, stage: Stage, topics: Mapping[str, FoundTopic], input_topic: str) -> Ticker | None:
        settings = self._settings
        if not isinstance(settings, HostsStreamSettings) or settings.ticks == "external":
            return None
        if not isinstance(stage, TickedStage):
            raise TypeError(f"stage {stage.name} makes ticks but says no rules_version")
        sender = TickSender(settings.kafka, input_topic, delivery_timeout_seconds=settings.delivery_timeout_seconds)
        signer = TickSigner(
            secret=settings.tick_secret,
            topic_id=topics[stage.inputs[0]].topic_id,
            rules_version=stage.rules_version,
            owner=new_owner(),
        )
        return Ticker(self.ownership.lanes, sender.send, signer, settled=lambda: self.ownership.settled)

    def _make_copier(self, stage: Stage, input_topic: str) -> Copier | None:
        if not isinstance(stage, IntentStage):
            return None
        settings = self._settings
        topic = settings.kafka.topic_prefix + stage.intents_topic
        if not stage.intent_secret or not stage.intents_topic_id:
            _log.warning("intents_not_taken", topic=topic, has_key=bool(stage.intent_secret))
            return None
        sender = CopySender(settings.kafka, input_topic, delivery_timeout_seconds=settings.delivery_timeout_seconds)
        return Copier(
            self.ownership.lanes,
            KafkaIntents(settings.kafka, topic, group=f"{settings.group}-intents"),
            sender.send,
            CopySigner(secret=stage.intent_secret, topic_id=stage.intents_topic_id),
            settled=lambda: self.ownership.settled,
        )
