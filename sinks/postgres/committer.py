"""The writing thread: one batch at a time, tried until it is committed, given up, or refused.

While batch k is written here, the reading thread packs batch k+1; there is room for one that waits. A database that
is away is waited for as long as the process runs; what it holds meanwhile is bounded by these two batches.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, Full, Queue, SimpleQueue

import msgspec

from infra.runtime.backoff import Backoff, Random, Retry
from infra.runtime.errors import SelfFenced, TransientError
from infra.runtime.log import get_logger
from sinks.postgres.plan import Batch, Plan
from sinks.postgres.writer import Standing, Writer, Written

_log = get_logger(__name__)

BACKOFF = Backoff(first_seconds=0.2, cap_seconds=5.0)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A batch with its plan, and the assignment it belongs to."""

    batch: Batch
    plan: Plan | None
    """None: the batch has a hole, which only the slow path can close."""
    generation: int


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """A batch that is durable in the database."""

    batch: Batch
    written: Written
    seconds: float
    """Of the attempt that succeeded."""
    retries: int


class Committer:
    """Owns the writer while `busy`; others may use it only when not."""

    def __init__(self, writer: Writer, *, random: Random, now: Callable[[], float] = time.monotonic) -> None:
        self._writer = writer
        self._random = random
        self._now = now
        self._jobs: Queue[Job | None] = Queue(maxsize=1)
        self._idle = threading.Event()
        self._idle.set()
        self._space = threading.Event()
        self._space.set()
        self._wake = threading.Event()
        self._guard = threading.Lock()
        self._open = 0
        self._generation = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self.done: SimpleQueue[Done] = SimpleQueue()
        self.failure: BaseException | None = None
        self.waiting_for_database: str | None = None
        """Why the current batch is being tried again; None when it is not."""

    def start(self) -> None:
        """Begin; once."""
        self._thread.start()

    @property
    def busy(self) -> bool:
        """True while a batch is being written or waits."""
        return not self._idle.is_set()

    @property
    def full(self) -> bool:
        """True while `submit` would have to wait."""
        return self._jobs.full()

    def submit(self, batch: Batch, plan: Plan | None) -> None:
        """Hand a batch over. Only one thread submits, and not while `full`."""
        with self._guard:
            self._open += 1
            self._idle.clear()
            self._space.clear()
            job = Job(batch=batch, plan=plan, generation=self._generation)
        self._jobs.put(job)

    def wait_for_room(self, seconds: float) -> None:
        """Wait until there is room, at most so long."""
        self._space.wait(seconds)

    def drain(self, seconds: float) -> bool:
        """Wait until everything handed over is committed or given up; False when it is not in time."""
        return self._idle.wait(seconds)

    def abandon(self) -> None:
        """Give up what is not yet committed: its partitions are another's. A write under way is left to the fence."""
        with self._guard:
            self._generation += 1
        self._wake.set()

    def close(self, seconds: float) -> None:
        """Stop the thread, at most so long; what it holds is given up. Safe to repeat."""
        self._stopping = True
        self.abandon()
        if self._thread.is_alive():
            with suppress(Full):  # then it sees `_stopping` when it takes that batch
                self._jobs.put_nowait(None)
            self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stopping:
            try:
                job = self._jobs.get(timeout=1.0)
            except Empty:
                continue
            self._space.set()
            if job is None:
                return
            try:
                self._write(job)
            except BaseException as failure:
                self.failure = failure
                return
            finally:
                with self._guard:
                    self._open -= 1
                    if self._open == 0:
                        self._idle.set()

    def _given_up(self, job: Job) -> bool:
        return self._stopping or job.generation != self._generation

    def _write(self, job: Job) -> None:
        """Try until committed. After a failure the position says whether the last attempt was."""
        retry = Retry(BACKOFF)
        while not self._given_up(job):
            begun_at = self._now()
            try:
                written = self._settle(job) if retry.failures else self._writer.write(job.batch, job.plan)
            except TransientError as error:
                self._pause(retry, error)
            except SelfFenced:
                if not self._given_up(job):
                    raise
            else:
                self.waiting_for_database = None
                seconds = self._now() - begun_at
                self.done.put(Done(batch=job.batch, written=written, seconds=seconds, retries=retry.failures))
                return
        self.waiting_for_database = None

    def _settle(self, job: Job) -> Written:
        standing = self._writer.standing(job.batch.spans)
        if standing is Standing.COMMITTED:
            if job.plan is None:
                return Written(changes=job.batch.rows, slow=True)
            return Written(changes=job.plan.changes, repeats=job.plan.repeats)
        # Whether fenced or not committed: the write's own fence decides.
        return self._writer.write(job.batch, job.plan)

    def _pause(self, retry: Retry, error: TransientError) -> None:
        delay = retry.failed(self._now(), self._random, at_least_seconds=error.retry_after_seconds or 0.0)
        self.waiting_for_database = str(error)
        _log.warning("write_retry", error=str(error), attempt=retry.failures, next_try_seconds=round(delay, 2))
        self._wake.clear()
        if not self._stopping:
            self._wake.wait(delay)
