"""Migrations: numbered SQL files beside this module, applied forward only, each once, in its own transaction.

Safe to run by several processes at once: one advisory lock is held from the first look to the last change. A file
that was applied is never edited: its checksum is remembered and compared.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psycopg

from infra.runtime.errors import ConfigError, DatabaseRefused
from sinks.postgres.connection import Connection

FOLDER = Path(__file__).parent / "migrations"

_LOCK_KEY = 0x64656C74_61766973
"""Arbitrary, ours alone: "deltavis"."""

_FILE = re.compile(r"^(\d{4})_([a-z0-9_]+)\.sql$")

_REGISTRY = """
CREATE TABLE IF NOT EXISTS schema_migration (
    number int4 PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    applied_by text NOT NULL DEFAULT session_user
)
"""


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """One file."""

    number: int
    name: str
    description: str
    sql: str
    checksum: str


def load(folder: Path = FOLDER) -> tuple[Migration, ...]:
    """All migrations in order. Raises ConfigError when a name is malformed, a number doubled or one left out."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = _FILE.match(path.name)
        text = path.read_text(encoding="utf-8")
        if match is None or not text.startswith("-- "):
            raise ConfigError("a migration is called NNNN_name.sql and begins with `-- what it does`", where=path.name)
        found.append(
            Migration(
                number=int(match[1]),
                name=match[2],
                description=text.splitlines()[0].removeprefix("-- "),
                sql=text,
                checksum=hashlib.sha256(text.encode()).hexdigest(),
            )
        )
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise ConfigError(
            "migrations have to be numbered 0001, 0002, ... without gap or double", where=str(folder.name)
        )
    return tuple(found)


def pending(applied: dict[int, str], known: tuple[Migration, ...], place: str) -> list[Migration]:
    """Which of the known migrations are still to apply, given number -> checksum of those that were.

    Raises DatabaseRefused when the database was made by a newer program or by files that were edited since.
    """
    by_number = {migration.number: migration for migration in known}
    if newer := sorted(applied.keys() - by_number.keys()):
        raise DatabaseRefused(
            f"the schema has migration {newer[-1]:04d}, this program knows {len(known):04d} and older",
            where=place,
            advice="use the newer version of this program; migrations do not go back",
        )
    for number, checksum in sorted(applied.items()):
        if by_number[number].checksum != checksum:
            raise DatabaseRefused(
                f"migration {number:04d} was applied from a file with another content",
                where=place,
                advice="use the program that made this database, or another database",
            )
    return [migration for migration in known if migration.number not in applied]


def applied_in(connection: Connection) -> dict[int, str]:
    """Number -> checksum of the applied migrations; empty when there never was one."""
    row = connection.execute("SELECT to_regclass('public.schema_migration') IS NOT NULL").fetchone()
    if row is None or not row[0]:
        return {}
    return dict(connection.execute("SELECT number, checksum FROM public.schema_migration").fetchall())


@contextmanager
def alone(connection: Connection) -> Iterator[None]:
    """Keep every other migration of this database waiting; needs autocommit.

    Not only migrations need it: two GRANTs on one table at once fail with "tuple concurrently updated".
    """
    # Waiting for the other process is what we want here, however long its migrations take.
    connection.execute("SET lock_timeout = 0")
    connection.execute("SET statement_timeout = 0")
    connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK_KEY,))
    try:
        yield
    finally:
        if not connection.broken:
            connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK_KEY,))


def apply(connection: Connection, place: str, folder: Path = FOLDER) -> list[Migration]:
    """Apply what is pending and return it; safe to repeat. To be called `alone`.

    A migration that fails leaves no trace of itself; those before it stay. Raises DatabaseRefused.
    """
    known = load(folder)
    connection.execute(_REGISTRY)
    todo = pending(applied_in(connection), known, place)
    for migration in todo:
        _apply_one(connection, migration, place)
    return todo


def _apply_one(connection: Connection, migration: Migration, place: str) -> None:
    try:
        with connection.transaction():
            connection.execute(migration.sql)
            connection.execute(
                "INSERT INTO schema_migration (number, name, checksum) VALUES (%s, %s, %s)",
                (migration.number, migration.name, migration.checksum),
            )
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        raise DatabaseRefused(
            f"migration {migration.number:04d} ({migration.name}) failed: {' '.join(str(error).split())}",
            where=place,
            advice="nothing of it was kept; the login has to own the schema, and no object of ours may exist already",
        ) from error
