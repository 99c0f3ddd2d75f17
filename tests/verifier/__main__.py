"""`python -m tests.verifier --kafka HOST:PORT --postgres CONNINFO`: verify a line from the command line.

Exit code 0: silent. 1: something was found. 2: wrong command line. 3: a server did not answer, or the line did not
become quiet. Secrets are never arguments: PostgreSQL's password comes from PGPASSWORD, PGPASSFILE or a service, Kafka's
from a file of NAME=VALUE lines (`--kafka-config`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import psycopg

from tests.verifier.logs import NoAnswer
from tests.verifier.quiet import NotQuiet, wait_until_quiet
from tests.verifier.settings import Settings
from tests.verifier.verify import verify


def _pair(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=NUMBER")
    try:
        return name, float(value)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(f"{value!r} is no number") from problem


def _properties(path: str) -> dict[str, str]:
    """Properties of librdkafka in a file, one NAME=VALUE a line, `#` begins a comment."""
    found = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as problem:
        raise argparse.ArgumentTypeError(f"{path}: {problem.strerror}") from problem
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not (name.strip() and equals):
            raise argparse.ArgumentTypeError(f"{path}, line {number} is not NAME=VALUE")
        found[name.strip()] = value.strip()
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.verifier", description="Verify a whole line; read-only.")
    parser.add_argument("--kafka", required=True, metavar="HOST:PORT[,…]")
    parser.add_argument(
        "--kafka-config", type=_properties, default={}, metavar="FILE", help="client properties (TLS, SASL), NAME=VALUE"
    )
    parser.add_argument("--postgres", metavar="CONNINFO", help="without a password; left out: tables are not compared")
    parser.add_argument("--prefix", default="", help="topic prefix")
    parser.add_argument("--injected-letters", type=int, metavar="N", help="poisoned records injected (I9)")
    parser.add_argument("--grace-ticks", type=int, metavar="N", help="the least grace that was set (I7)")
    parser.add_argument("--figure", type=_pair, action="append", default=[], metavar="NAME=NUMBER", help="measured")
    parser.add_argument(
        "--bound", type=_pair, action="append", default=[], metavar="NAME=NUMBER", help="its most (I10)"
    )
    parser.add_argument("--wait", type=float, metavar="SECONDS", help="wait at most so long for the line to be quiet")
    parser.add_argument("--running", action="store_true", help="the line is not quiet: leave out what may be under way")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    return parser


def main() -> int:
    """Run; returns the exit code."""
    given = _parser().parse_args()
    settings = Settings(
        kafka=given.kafka,
        postgres=given.postgres,
        prefix=given.prefix,
        kafka_properties=given.kafka_config,
        injected_letters=given.injected_letters,
        grace_ticks=given.grace_ticks,
        figures=dict(given.figure),
        bounds=dict(given.bound),
        quiet=not given.running,
    )
    try:
        if given.wait is not None:
            wait_until_quiet(settings, timeout_seconds=given.wait)
        report = verify(settings)
    except (NoAnswer, NotQuiet, psycopg.Error) as error:
        print(f"not verified: {error}", file=sys.stderr)
        return 3
    print(report.json() if given.json else report.text())
    return 0 if report.silent else 1


if __name__ == "__main__":
    sys.exit(main())
