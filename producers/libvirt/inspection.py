"""Looking at one domain: asks libvirt, and turns the answers into facets with what was known before.

Not thread-safe: belongs to the one thread that reads and lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import msgspec
import xxhash

from infra.runtime.log import get_logger
from producers.agent.source import VmView
from producers.libvirt.chronicle import Chronicle
from producers.libvirt.connection import Connection
from producers.libvirt.mapping import Observed, dated, end_of, run_of
from producers.libvirt.numbers import DiskError, Job, Paused, State
from producers.libvirt.processes import QemuProcess, process_of
from producers.libvirt.xml import Definition, DefinitionRefused, definition_of
from schemas.facets import Facet
from schemas.facets.run import Run
from schemas.ids import VmId
from schemas.status import ALIVE, PauseErrno, Status

_NO_DOMAIN_ID = -1

_log = get_logger(__name__)


@dataclass(slots=True)
class _Known:
    """What the last look at a VM found."""

    run: Run | None = None
    domain_id: int = _NO_DOMAIN_ID
    process: QemuProcess | None = None
    document_hash: bytes = b""
    definition: Definition | None = None


class Inspector:
    """Looks at domains and remembers them, some 3 KB each."""

    def __init__(self, run_directories: Sequence[Path]) -> None:
        self._run_directories = run_directories
        self._known: dict[VmId, _Known] = {}
        self._listed = False

    def look(
        self, connection: Connection, domain: Any, vm_id: VmId, chronicle: Chronicle, *, now: tuple[int, int]
    ) -> VmView:
        """The facets of a domain; one that could not be read is left out. ``now`` is wall clock and monotonic, ns.

        Raises DomainVanished and SourceUnavailable.
        """
        known = self._known.get(vm_id) or _Known()
        facets: dict[Facet, msgspec.Struct] = {}
        run = self._run(connection, domain, vm_id, chronicle, known, now)
        definition = self._definition(connection, domain, vm_id, known)
        persistent = connection.try_ask(domain.isPersistent)
        if run is not None:
            known.run = facets[Facet.RUN] = run
        if definition is not None:
            facets[Facet.IDENTITY] = msgspec.structs.replace(
                definition.identity, persistent=None if persistent is None else bool(persistent)
            )
            facets[Facet.DEVICES] = definition.devices
        self._known[vm_id] = known
        return VmView(vm_id=vm_id, facets=facets)

    def last_words(self, vm_id: VmId, chronicle: Chronicle, observed_at: int) -> VmView | None:
        """The end of a VM that left nothing behind, from its events; None when it was not alive or nothing told."""
        previous = self.last_run(vm_id)
        end = end_of(chronicle, previous)
        if end is None or previous is None or previous.status not in ALIVE:
            return None
        run = dated(end, previous, observed_at=observed_at, process_id=None, started_at=None)
        return VmView(vm_id=vm_id, facets={Facet.RUN: run})

    def last_run(self, vm_id: VmId) -> Run | None:
        """The run facet of the last look."""
        known = self._known.get(vm_id)
        return None if known is None else known.run

    def forget(self, vm_id: VmId) -> None:
        """The VM is gone."""
        self._known.pop(vm_id, None)

    def keep_only(self, vm_ids: set[VmId]) -> None:
        """Forget all others: a complete listing had no more. What appears from now on is new."""
        self._listed = True
        for vm_id in self._known.keys() - vm_ids:
            del self._known[vm_id]

    def _run(
        self,
        connection: Connection,
        domain: Any,
        vm_id: VmId,
        chronicle: Chronicle,
        known: _Known,
        now: tuple[int, int],
    ) -> Run | None:
        answer = connection.try_ask(domain.state)
        if answer is None:
            return None
        state, reason = answer
        domain_id = _NO_DOMAIN_ID if state == State.SHUTOFF else domain.ID()
        if domain_id != _NO_DOMAIN_ID and domain_id != known.domain_id:
            name = connection.try_ask(domain.name) or ""
            known.process = process_of(vm_id, name, domain_id, self._run_directories)
        known.domain_id = domain_id
        process = known.process if domain_id != _NO_DOMAIN_ID else None
        observed_at, monotonic_ns = now
        observed = Observed(
            state=state,
            reason=reason,
            job=self._job(connection, domain, state, reason, known.run),
            managed_save=state == State.SHUTOFF and bool(connection.try_ask(domain.hasManagedSaveImage)),
            rebooting=chronicle.is_rebooting(monotonic_ns),
        )
        run = run_of(observed, chronicle, known.run)
        if run is None:
            return None
        if run.pause_errno is None and state == State.PAUSED and reason == Paused.IOERROR:
            run = msgspec.structs.replace(run, pause_errno=self._errno(connection, domain, known.run))
        return dated(
            run,
            known.run,
            observed_at=observed_at if self._listed or known.run is not None else None,
            process_id=None if process is None else process.process_id,
            started_at=None if process is None else process.started_at,
        )

    def _job(self, connection: Connection, domain: Any, state: int, reason: int, previous: Run | None) -> int | None:
        """The operation of a running job. It tells an outgoing migration from a run, and nothing else does."""
        if state != State.RUNNING and (state, reason) != (State.PAUSED, Paused.MIGRATION):
            return None
        statistics = connection.try_ask(domain.jobStats) if connection.may_enter_monitor(domain) else None
        if statistics is None:
            outgoing = previous is not None and previous.status is Status.MIGRATING_FROM
            return Job.MIGRATION_OUT if outgoing else None
        operation = statistics.get("operation")
        return operation if isinstance(operation, int) else None

    def _errno(self, connection: Connection, domain: Any, previous: Run | None) -> PauseErrno | None:
        """After a restart of the agent the event that told is lost, but QEMU still knows."""
        if previous is not None and previous.pause_errno is not None:
            return previous.pause_errno
        errors = connection.try_ask(domain.diskErrors) if connection.may_enter_monitor(domain) else None
        if not errors:
            return None
        return PauseErrno.ENOSPC if DiskError.NO_SPACE in errors.values() else PauseErrno.EOTHER

    def _definition(self, connection: Connection, domain: Any, vm_id: VmId, known: _Known) -> Definition | None:
        try:
            document = connection.ask(domain.XMLDesc, 0)
        except libvirt.libvirtError as error:
            _log.warning("domain_unreadable", vm_id=vm_id.hex(), error_code=error.get_error_code())
            return None
        digest = xxhash.xxh3_128_digest(document.encode())
        if digest != known.document_hash:
            known.document_hash = digest
            try:
                known.definition = definition_of(document)
            except DefinitionRefused as error:
                known.definition = None
                _log.warning("domain_refused", vm_id=vm_id.hex(), reason=str(error))
        return known.definition
