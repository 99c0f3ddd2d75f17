"""The verification: reads every topic once and the tables once, and gives the verdict.

Order of reading: the database's snapshot first, then the ends of all topics downstream first, so that every effect
that is seen has its cause below the end of its topic. Memory: hashes of every distinct change and statement, the
changes of one partition, the last state of every VM and host; payloads are streamed.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.verifier.admission import Admission
from tests.verifier.changes import Change, read_host_change, read_vm_change
from tests.verifier.database import Database, Tables
from tests.verifier.findings import Finding, Kind, Report
from tests.verifier.history import History
from tests.verifier.hosts import HostChanges
from tests.verifier.letters import DeadLetters
from tests.verifier.logs import (
    DEAD_LETTERS,
    HOST_CHANGES,
    HOST_REPORTS,
    HOST_STATE,
    VM_CHANGES,
    VM_OBSERVATIONS,
    VM_STATE,
    Ends,
    KafkaLogs,
    Logs,
)
from tests.verifier.observations import Observations
from tests.verifier.oracle import Oracle
from tests.verifier.settings import Settings
from tests.verifier.states import HostState, VmState
from tests.verifier.tables import HOSTS, VMS, TableCheck


def verify(settings: Settings) -> Report:
    """Verify a line; read-only. Raises NoAnswer or psycopg.Error when a server does not answer."""
    with ExitStack() as stack:
        tables = None
        if settings.postgres is not None:
            tables = stack.enter_context(Database(settings.postgres, settings.postgres_password))
        logs = stack.enter_context(KafkaLogs(settings.kafka, settings.prefix, settings.kafka_properties))
        return verify_logs(logs, tables, settings)


def verify_logs(logs: Logs, tables: Tables | None, settings: Settings) -> Report:
    """The same on any logs and tables."""
    with _without_cyclic_collector():
        return _verified(logs, tables, settings)


@contextmanager
def _without_cyclic_collector() -> Iterator[None]:
    """Millions of records in no cycles: the collector finds nothing, and costs a fifth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _verified(logs: Logs, tables: Tables | None, settings: Settings) -> Report:
    run = _Run(logs, settings)
    run.read_reports()
    run.read_vms()
    run.read_hosts()
    run.finish()
    if tables is None:
        run.report.note("no database was given: tables were not compared")
    else:
        run.compare_tables(tables)
    _weigh(run.report, settings)
    return run.report


def _weigh(report: Report, settings: Settings) -> None:
    """Figures of the harness against their bounds (I10)."""
    report.figures.update(settings.figures)
    for name, bound in settings.bounds.items():
        value = report.figures.get(name)
        if value is None:
            report.note(f"no figure {name}, its bound {bound:g} was not checked")
        elif value > bound:
            what = f"{name} is {value:g}, the bound is {bound:g}"
            report.add(Finding(kind=Kind.ABOVE_BOUND, invariant="I10", what=what))


class _Run:
    """One verification under way."""

    def __init__(self, logs: Logs, settings: Settings) -> None:
        self.report = Report()
        self._logs, self._settings = logs, settings
        self._ends: Ends = logs.ends()
        for topic, spans in self._ends.items():
            if not spans:
                self.report.add(Finding(kind=Kind.LOST, invariant="I1", what="the topic does not exist", topic=topic))
        partitions = max((len(spans) for spans in self._ends.values()), default=0)
        self._admission = Admission(self.report, partitions)
        self._letters = DeadLetters(self.report)
        whole = {topic: all(span.low == 0 for span in spans.values()) for topic, spans in self._ends.items()}
        self._vms = History(self.report, VM_CHANGES, "vm", partitions, whole=whole[VM_CHANGES])
        self._hosts = History(self.report, HOST_CHANGES, "host", partitions, whole=whole[HOST_CHANGES])
        self._from_start = whole[HOST_REPORTS] and whole[VM_OBSERVATIONS] and whole[VM_CHANGES]
        if not self._from_start:
            self.report.note("retention has deleted the beginning of a topic: histories were not laid beside the log")

    def read_reports(self) -> None:
        """The log and what was put aside of it."""
        for partition, span in self._ends[DEAD_LETTERS].items():
            self._letters.read(partition, self._logs.read(DEAD_LETTERS, partition, span))
        for partition, span in self._ends[HOST_REPORTS].items():
            self._admission.read(partition, self._logs.read(HOST_REPORTS, partition, span))
        injected = self._settings.injected_letters
        self._letters.compare(self._admission, injected, whole=self._from_start and self._settings.quiet)

    def read_vms(self) -> None:
        """Each partition of the vms stage: its changes, what it heard, its table."""
        spans = self._ends[HOST_REPORTS]
        observations = Observations(self.report, self._admission, spans, self._settings.grace_ticks)
        for partition, span in self._ends[VM_CHANGES].items():
            messages = self._logs.read(VM_CHANGES, partition, span)
            changes: list[tuple[int, Change]] = list(self._vms.read(partition, messages, read_vm_change))
            if self._from_start:
                oracle = Oracle(self.report, self._admission, self._letters.facets, partition, changes)
                heard = self._logs.read(VM_OBSERVATIONS, partition, self._ends[VM_OBSERVATIONS][partition])
                observations.read(partition, heard, oracle.listener())
                oracle.close()
            state = VmState(self.report, partition)
            state.read(self._logs.read(VM_STATE, partition, self._ends[VM_STATE][partition]))
            state.compare(self._vms, quiet=self._settings.quiet)
        if self._from_start and self._settings.quiet:
            observations.close(self._letters.records)

    def read_hosts(self) -> None:
        """host.changes and host.state."""
        beside = HostChanges(self.report, self._admission)
        for partition, span in self._ends[HOST_CHANGES].items():
            messages = self._logs.read(HOST_CHANGES, partition, span)
            for offset, change in self._hosts.read(partition, messages, read_host_change):
                if self._from_start:
                    beside.take(partition, offset, change)
        if self._from_start and self._settings.quiet:
            beside.close(self._letters.places)
        state = HostState(self.report)
        for partition, span in self._ends[HOST_STATE].items():
            state.read(partition, self._logs.read(HOST_STATE, partition, span))
        state.compare(self._hosts, quiet=self._settings.quiet)

    def finish(self) -> None:
        """What is still missing is missing."""
        self._vms.close()
        self._hosts.close()

    def compare_tables(self, tables: Tables) -> None:
        """PostgreSQL."""
        for subject, history in ((VMS, self._vms), (HOSTS, self._hosts)):
            check = TableCheck(self.report, tables, subject, history)
            check.compare(self._settings.prefix, self._ends[subject.topic], quiet=self._settings.quiet)
