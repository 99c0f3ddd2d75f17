"""One line of its own for the fault tests: topics, database, workers that die, and the account at the end."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import psycopg
from psycopg import sql

from infra.runtime.settings import KafkaSettings
from infra.runtime.topics import TopicSet
from infra.stack.endpoints import Endpoints
from infra.supervisor.line import LineOptions, parts_of, write_settings
from infra.supervisor.part import Part
from infra.supervisor.prepare import prepare
from tests.faults.load import Load, place
from tests.verifier.logs import NoAnswer
from tests.verifier.quiet import wait_until_quiet
from tests.verifier.settings import Settings
from tests.verifier.verify import verify

SETTLE_SECONDS = 240.0
SHOWN = 10
SINK_NOTICES_SOON: Mapping[str, Mapping[str, Any]] = {"postgres": {"session_timeout_seconds": 6.0}}
"""The shortest session the broker allows: a sink's partitions wait so long after it was killed."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """What was accepted and what came of it."""

    accepted: int
    """Changes of VMs in reports that Kafka has."""
    stored: int
    """Rows of the history."""
    by_kind: Mapping[str, int]
    """The verifier's findings, by kind."""
    problems: list[str]
    """The first of them, and those of the load's own book."""
    looked_at: Mapping[str, int]

    @property
    def clean(self) -> bool:
        """Nothing lost, nothing twice, nothing out of order, everything agrees."""
        return not self.by_kind and not self.problems and self.stored == self.accepted


class FaultyLine:
    """Topics and database of one test; use as a context."""

    def __init__(self, endpoints: Endpoints, folder: Path, **options: Any) -> None:
        self.name = f"fault{uuid.uuid4().hex[:10]}"
        self._admin = endpoints
        database = psycopg.conninfo.make_conninfo(endpoints.postgres, dbname=self.name)
        self.endpoints = msgspec.structs.replace(endpoints, postgres=database)
        self.options = LineOptions(**{"topic_prefix": f"{self.name}.", "tables": SINK_NOTICES_SOON, **options})
        self.kafka = KafkaSettings(bootstrap=endpoints.kafka, topic_prefix=self.options.topic_prefix)
        self.topics = TopicSet.of(self.kafka, self.options.topics)
        self.config = folder / f"{self.name}.toml"

    def __enter__(self) -> Self:
        with self.superuser(self._admin.postgres) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.name)))
        prepare(self.endpoints, self.options, lambda said: None)
        write_settings(self.config, self.endpoints, self.options)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.superuser(self._admin.postgres) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(self.name)))

    def parts(self) -> list[Part]:
        """The real workers."""
        return parts_of(self.config, self.options)

    def superuser(self, dsn: str) -> psycopg.Connection[dict[str, Any]]:
        """A connection that may do everything."""
        password = (self._admin.secrets_dir / "postgres").read_text().strip()
        return psycopg.connect(dsn, password=password, autocommit=True, row_factory=psycopg.rows.dict_row)

    def stored(self) -> int:
        """Rows of the history."""
        with self.superuser(self.endpoints.postgres) as connection:
            row = connection.execute("SELECT count(*) AS n FROM vm_change").fetchone()
        assert row is not None
        return int(row["n"])

    def settle(self, load: Load, seconds: float = SETTLE_SECONDS) -> None:
        """Stop the load and wait until everything accepted has passed the line."""
        load.pause()
        deadline = time.monotonic() + seconds
        while True:
            try:
                wait_until_quiet(self._verified(), timeout_seconds=deadline - time.monotonic())
            except NoAnswer:
                # A broker that just came back, or that a busy machine kept from its controller, leads nothing yet.
                if time.monotonic() > deadline:
                    raise
                time.sleep(1.0)
            else:
                return

    def account(self, load: Load) -> Account:
        """What the verifier finds and what the load's book says; after `settle`."""
        report = verify(self._verified())
        with self.superuser(self.endpoints.postgres) as connection:
            by_book = _against_book(connection, load)
        return Account(
            accepted=load.accepted_changes,
            stored=self.stored(),
            by_kind={str(kind): count for kind, count in report.counts.items()},
            problems=[str(finding) for finding in report.findings[:SHOWN]] + by_book[:SHOWN],
            looked_at=dict(report.looked_at),
        )

    def _verified(self) -> Settings:
        password = (self._admin.secrets_dir / "postgres").read_text().strip()
        return Settings(
            kafka=self.kafka.bootstrap,
            postgres=self.endpoints.postgres,
            postgres_password=password,
            prefix=self.options.topic_prefix,
        )


def _against_book(connection: psycopg.Connection[dict[str, Any]], load: Load) -> list[str]:
    """The history has one version for every entry of the book, in its order; nobody was ever doubted."""
    found = []
    stored: dict[str, list[int]] = {}
    rows = connection.execute(
        "SELECT vm_id::text AS vm_id, evidence_partition AS p, evidence_offset AS o"
        " FROM vm_change ORDER BY vm_id, incarnation, version"
    )
    for row in rows:
        stored.setdefault(row["vm_id"], []).append(place(row["p"], row["o"]))
    for _, vm in load.books():
        accepted, kept = vm.accepted.tolist(), stored.pop(vm.text, [])
        if accepted != kept:
            found += _differences(vm.text, accepted, kept)
    found += [f"{vm_id}: nobody ever reported it" for vm_id in stored]
    doubted = connection.execute(
        "SELECT availability_reason AS why, count(*) AS n FROM vm_change WHERE availability <> 'known' GROUP BY 1"
    )
    found += [f"{row['n']} changes say {row['why']}: nobody was silent" for row in doubted]
    return found


def _differences(vm_id: str, accepted: Sequence[int], kept: Sequence[int]) -> list[str]:
    lost, twice = set(accepted) - set(kept), len(kept) - len(set(kept))
    extra = set(kept) - set(accepted)
    found = [f"{vm_id}: {len(lost)} of {len(accepted)} accepted changes are lost"] if lost else []
    found += [f"{vm_id}: {twice} changes are stored twice"] if twice else []
    found += [f"{vm_id}: {len(extra)} changes that nobody reported"] if extra else []
    return found or [f"{vm_id}: its changes are out of order"]
