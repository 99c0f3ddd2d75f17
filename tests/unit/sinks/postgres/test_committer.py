"""The writing thread against a writer of ours that fails as told: what is retried, settled, given up, passed on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from infra.runtime.errors import DatabaseRefused, DeltavisorError, SelfFenced, TransientError
from sinks.postgres.committer import Committer
from sinks.postgres.plan import Batch, Plan, Span, plan
from sinks.postgres.settings import Database
from sinks.postgres.writer import Standing, Writer, Written

WAIT_SECONDS = 5.0


class FakeWriter(Writer):
    """Writes nowhere; outcomes are taken in order, the last one for ever."""

    def __init__(self, *outcomes: DeltavisorError | None, standings: tuple[Standing, ...] = ()) -> None:
        super().__init__(Database(dsn="host=nowhere"))
        self._outcomes = list(outcomes)
        self._standings = list(standings)
        self.written: list[int] = []
        self.attempts = 0
        self.attempted = threading.Event()

    def write(self, batch: Batch, prepared: Plan | None) -> Written:
        self.attempts += 1
        self.attempted.set()
        outcome = self._outcomes.pop(0) if len(self._outcomes) > 1 else self._outcomes[0]
        if outcome is not None:
            raise outcome
        self.written.append(batch.spans[0].expected)
        assert prepared is not None
        return Written(changes=prepared.changes)

    def standing(self, spans: object) -> Standing:
        return self._standings.pop(0) if self._standings else Standing.NOT_COMMITTED


Make = Callable[[FakeWriter], Committer]


@pytest.fixture
def make() -> Iterator[Make]:
    made = []

    def start(writer: FakeWriter) -> Committer:
        committer = Committer(writer, random=lambda: 0.0)
        committer.start()
        made.append(committer)
        return committer

    yield start
    for committer in made:
        committer.close(WAIT_SECONDS)


def submit(committer: Committer, expected: int = 0) -> None:
    span = Span(topic="vm.changes", partition=0, epoch=1, expected=expected, next_offset=expected + 1)
    batch = Batch(spans=(span,))
    committer.submit(batch, plan(batch, server_version=180_000))


def away() -> TransientError:
    return TransientError("away", where="PostgreSQL at nowhere")


def fenced() -> SelfFenced:
    return SelfFenced("fenced")


def test_batches_are_written_in_order(make: Make) -> None:
    writer = FakeWriter(None)
    committer = make(writer)
    for expected in range(5):
        while committer.full:
            committer.wait_for_room(WAIT_SECONDS)
        submit(committer, expected)
    assert committer.drain(WAIT_SECONDS)
    assert writer.written == [0, 1, 2, 3, 4]
    assert committer.done.qsize() == 5
    assert not committer.busy


def test_a_database_that_is_away_is_waited_for(make: Make) -> None:
    writer = FakeWriter(away(), away(), away(), None)
    committer = make(writer)
    submit(committer)
    assert committer.drain(WAIT_SECONDS)
    assert writer.written == [0]
    assert committer.done.get_nowait().retries == 3
    assert committer.waiting_for_database is None


def test_a_commit_of_unknown_outcome_is_not_repeated(make: Make) -> None:
    writer = FakeWriter(away(), standings=(Standing.COMMITTED,))
    committer = make(writer)
    submit(committer)
    assert committer.drain(WAIT_SECONDS)
    assert writer.attempts == 1
    assert committer.done.get_nowait().retries == 1
    assert committer.failure is None


@pytest.mark.parametrize("error", [fenced(), DatabaseRefused("no table")], ids=["fenced", "refused"])
def test_what_can_not_be_retried_is_passed_on(make: Make, error: DeltavisorError) -> None:
    committer = make(FakeWriter(error))
    submit(committer)
    assert committer.drain(WAIT_SECONDS)
    assert committer.failure is error
    assert committer.done.empty()


def test_giving_up_ends_the_retries(make: Make) -> None:
    writer = FakeWriter(away())
    committer = make(writer)
    submit(committer)
    assert writer.attempted.wait(WAIT_SECONDS)
    committer.abandon()
    assert committer.drain(WAIT_SECONDS)
    assert committer.failure is None
    assert committer.done.empty()


def test_being_fenced_does_not_matter_once_given_up(make: Make) -> None:
    released = threading.Event()

    class Slow(FakeWriter):
        def write(self, batch: Batch, prepared: Plan | None) -> Written:
            self.attempted.set()
            released.wait(WAIT_SECONDS)
            raise fenced()

    writer = Slow(None)
    committer = make(writer)
    submit(committer)
    assert writer.attempted.wait(WAIT_SECONDS)
    committer.abandon()
    released.set()
    assert committer.drain(WAIT_SECONDS)
    assert committer.failure is None


def test_work_after_giving_up_is_done(make: Make) -> None:
    writer = FakeWriter(away(), None)
    committer = make(writer)
    committer.abandon()
    submit(committer, 3)
    assert committer.drain(WAIT_SECONDS)
    assert writer.written == [3]


def test_closing_does_not_wait_for_a_database_that_is_away(make: Make) -> None:
    writer = FakeWriter(away())
    committer = make(writer)
    submit(committer)
    assert writer.attempted.wait(WAIT_SECONDS)
    committer.close(WAIT_SECONDS)
    assert committer.drain(0)
