"""Waits until a line is quiet: what was in `host.reports` when it was asked is in the tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import psycopg

from tests.verifier.logs import (
    DEAD_LETTERS,
    HOST_CHANGES,
    HOST_REPORTS,
    HOSTS_TABLE,
    VM_CHANGES,
    VM_OBSERVATIONS,
    VM_STATE,
    KafkaLogs,
    Span,
)
from tests.verifier.records import unpack
from tests.verifier.settings import Settings

_PARTITION_ROW = b"#partition"
_STEP_SECONDS = 0.2
_TAIL = 2_000


class NotQuiet(Exception):
    """The line did not become quiet in time; the text says what was missing."""


def wait_until_quiet(settings: Settings, *, still_seconds: float = 1.5, timeout_seconds: float = 120.0) -> None:
    """Return once everything reported by now has passed the line and nothing changed for `still_seconds`.

    First a barrier, without guessing: the hosts stage has applied every report that was in the log when asked, then
    the vms stage every observation. Then stillness: the ends of vm.changes, host.changes and dead.letters stand, with
    the sink's position at the end. Last, one more input of the vms stage: rows of ended claims are deleted a batch
    later, and partitions without evidence hear the clock alone, every 5 s. Ticks and heartbeats disturb nothing; a
    duration that still runs in a stage (a loss being judged) is not waited for, unless `still_seconds` is longer.

    Raises NotQuiet.
    """
    deadline = time.monotonic() + timeout_seconds
    with KafkaLogs(settings.kafka, settings.prefix, settings.kafka_properties) as logs:
        _pass(logs, HOST_REPORTS, HOSTS_TABLE, deadline)
        _pass(logs, VM_OBSERVATIONS, VM_STATE, deadline)
        _stand_still(logs, settings, still_seconds, deadline)
        _pass(logs, VM_OBSERVATIONS, VM_STATE, deadline, more=1)


def _until(holds: Callable[[], str | None], deadline: float) -> None:
    while (lacking := holds()) is not None:
        if time.monotonic() > deadline:
            raise NotQuiet(lacking)
        time.sleep(_STEP_SECONDS)


def _pass(logs: KafkaLogs, topic: str, table: str, deadline: float, *, more: int = 0) -> None:
    """Return once a stage's table says that everything now in its input is included, and so many inputs more."""
    wanted = {partition: span.high + more for partition, span in logs.ends((topic,))[topic].items() if span.high > 0}
    applied: dict[int, int] = {}

    def lacking() -> str | None:
        for partition, span in logs.ends((table,))[table].items():
            if applied.get(partition, 0) < wanted.get(partition, 0):
                applied[partition] = _applied(logs, table, partition, span)
        behind = {partition: end for partition, end in wanted.items() if applied.get(partition, 0) < end}
        return f"{topic}: {table} has applied {applied}, the ends were {wanted}" if behind else None

    _until(lacking, deadline)


def _applied(logs: KafkaLogs, table: str, partition: int, span: Span) -> int:
    """Next input offset by the newest partition row, looked for from the end backwards; 0 without one."""
    high = span.high
    while high > span.low:
        low = max(span.low, high - _TAIL)
        found = 0
        for message in logs.read(table, partition, Span(low, high)):
            if message.key == _PARTITION_ROW and message.value is not None:
                row = unpack(message.value)
                found = int(row["applied"] if isinstance(row, Mapping) else row[0]) + 1
        if found:
            return found
        high = low
    return 0


def _stand_still(logs: KafkaLogs, settings: Settings, still_seconds: float, deadline: float) -> None:
    topics = (DEAD_LETTERS, HOST_CHANGES, VM_CHANGES)
    ends = logs.ends(topics)
    since = time.monotonic()

    def lacking() -> str | None:
        nonlocal ends, since
        now = logs.ends(topics)
        if now != ends:
            ends, since = now, time.monotonic()
        if time.monotonic() - since < still_seconds:
            return "vm.changes, host.changes or dead.letters still grow"
        behind = _sink_behind(settings, {topic: now[topic] for topic in (HOST_CHANGES, VM_CHANGES)})
        return f"the sink is behind: {behind}" if behind else None

    _until(lacking, deadline)


def _sink_behind(settings: Settings, ends: Mapping[str, Mapping[int, Span]]) -> list[str]:
    if settings.postgres is None:
        return []
    given = {} if settings.postgres_password is None else {"password": settings.postgres_password}
    with psycopg.connect(psycopg.conninfo.make_conninfo(settings.postgres, **given)) as connection:
        rows = connection.execute("SELECT topic, part, next_offset FROM sink_position").fetchall()
    stored = {(topic, part): offset for topic, part, offset in rows}
    return [
        f"{topic}[{partition}] {stored.get((settings.prefix + topic, partition), 0)} of {span.high}"
        for topic, spans in ends.items()
        for partition, span in spans.items()
        if stored.get((settings.prefix + topic, partition), 0) < span.high
    ]
