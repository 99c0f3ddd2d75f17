"""`make soak-crash MINUTES=30 [SEED=n]`: random deaths by a seeded schedule, and an account after each round.

A round is a line of its own: two workers of every part, the load, some minutes of kills, then quiet and the account.
Kills are SIGKILLs at random times and random failpoints at random hits, of one part or of several at once; workers
also freeze past their sessions; in every other round PostgreSQL or Kafka goes away. The result is printed as JSON, and
kept with `--keep FILE`. Exit code 0: nothing lost, nothing twice, nothing out of order, everything agrees.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.runtime.failpoints import POINTS
from infra.stack.services import ServiceName
from infra.stack.stack import Stack
from tests.faults.crew import Crew
from tests.faults.faulty_line import Account, FaultyLine
from tests.faults.load import Load, LoadShape
from tests.faults.outage import away, own_stack
from tests.faults.shots import KILLED

ROUND_SECONDS = 240.0
"""So long a line lives; what it wrote has to be read as a whole, which bounds the memory of the account."""
KILL_EVERY_SECONDS = 3.0
"""Mean time between two strikes. Each is at one part, one time in four at several; most of them are two deaths."""
REST_SECONDS = 12.0
"""A part lives at least so long between two strikes, and comes to its failpoint meanwhile: an input at which three
processes in a row died is taken for poison, rightly."""
SHOWN_ERRORS = 12
FROZEN_SECONDS = 12.0
LONGEST_OUTAGE_SECONDS = 120.0
SETTLE_SECONDS = 300.0
SHAPE = LoadShape(changes_per_second=2_200.0)
WORKERS = {"hosts_workers": 2, "vms_workers": 2, "sink_workers": 2}


@dataclass(frozen=True, kw_only=True)
class Round:
    """What a round did and what came of it."""

    seed: int
    seconds: float
    kills: int
    points: dict[str, int]
    """Failpoints that were hit, and how often."""
    other_ends: dict[str, int]
    """Ends that were no kill: exit code, and how often."""
    errors: list[str]
    """What the parts said of the other ends, the last of it."""
    outage: str | None
    changes_per_second: float
    account: Account


def main() -> int:
    """Run the soak; its exit code."""
    given = _arguments()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    ends_at = time.monotonic() + given.minutes * 60
    rounds: list[Round] = []
    with own_stack("soak") as stack, tempfile.TemporaryDirectory(prefix="soak-") as folder:
        stack.up(services={"kafka", "postgres"})
        while (left := ends_at - time.monotonic()) > 0 or not rounds:
            # A short rest is part of this round, not a round of its own.
            seconds = left if left < 1.5 * ROUND_SECONDS else ROUND_SECONDS
            share = LONGEST_OUTAGE_SECONDS * min(1.0, given.minutes / 30)
            rounds.append(_round(stack, Path(folder), chance.randrange(1 << 32), seconds, len(rounds), share))
            print(_summary(rounds[-1]), file=sys.stderr, flush=True)
    result = _result(seed, given.minutes, rounds)
    text = json.dumps(result, indent=2)
    if given.keep is not None:
        given.keep.parent.mkdir(parents=True, exist_ok=True)
        given.keep.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0 if result["clean"] else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--keep", type=Path, help="write the result there")
    return parser.parse_args()


def _round(stack: Stack, folder: Path, seed: int, seconds: float, number: int, outage_seconds: float) -> Round:
    chance = random.Random(seed)
    outage = (None, ServiceName.POSTGRES, None, ServiceName.KAFKA)[number % 4]
    endpoints = stack.up(services={"kafka", "postgres"})
    with FaultyLine(endpoints, folder, **WORKERS) as line, Crew(line.parts()) as crew:
        crew.wait_ready()
        with Load(line.kafka, line.topics, SHAPE, seed=seed) as load:
            load.resume()
            began_at = time.monotonic()
            outage_at = began_at + seconds / 3 if outage is not None else float("inf")
            while time.monotonic() - began_at < seconds:
                _strike(crew, chance)
                time.sleep(chance.uniform(0.2, 2.0) * KILL_EVERY_SECONDS * 0.91)
                if outage is not None and time.monotonic() > outage_at:
                    away(stack, outage, outage_seconds)
                    outage_at = float("inf")
            rate = load.accepted_changes / (time.monotonic() - began_at)
            took = time.monotonic() - began_at
            _disarm(crew)
            crew.wait_ready(seconds=SETTLE_SECONDS)
            line.settle(load, SETTLE_SECONDS)
            account = line.account(load)
    away_for = f"{outage} {outage_seconds:.0f} s" if outage else None
    return _told(seed, took, crew, away_for, rate, account)


def _strike(crew: Crew, chance: random.Random) -> None:
    """One part or several die now, or freeze; most of those that die meet a point in their next life."""
    free = [name for name in crew.names if crew.at_rest(name, REST_SECONDS)]
    names = chance.sample(free, min(len(free), chance.choice((1, 1, 1, 2 + chance.randrange(3)))))
    for name in names:
        if chance.random() < 0.7:
            component = name.partition("-")[0]
            point = chance.choice([point for point in POINTS if point.startswith(f"{component}.")])
            crew.arm(name, f"{point}:kill:{_hit(point, chance)}")
    if names and chance.random() < 0.02:
        crew.signal(names[0], signal.SIGSTOP)
        time.sleep(FROZEN_SECONDS)
        crew.signal(names[0], signal.SIGCONT)
        return
    for name in names:
        crew.signal(name)


def _hit(point: str, chance: random.Random) -> int:
    """Points of a worker's life come once or twice in it, those of its work often, rows most often."""
    place = point.partition(".")[2]
    if place.startswith(("rebalance", "load", "assigned", "position_taken")):
        return 1
    most = {"outbox.row": 5_000, "intake.polled": 500, "intake.applied": 500, "outbox.acknowledged": 500}
    return 1 + chance.randrange(most.get(place, 30))


def _disarm(crew: Crew) -> None:
    """Every part lives on without an appointment."""
    for name in crew.names:
        crew.arm(name, "")
    for name in crew.names:
        crew.signal(name)


def _told(seed: int, seconds: float, crew: Crew, outage: str | None, rate: float, account: Account) -> Round:
    ended = crew.ended
    return Round(
        seed=seed,
        seconds=round(seconds, 1),
        kills=sum(1 for end in ended if end.code == KILLED),
        points=dict(sorted(Counter(end.armed.rpartition(":kill:")[0] for end in ended if end.fired).items())),
        other_ends=dict(sorted(Counter(str(end.code) for end in ended if end.code != KILLED).items())),
        errors=[line[:400] for line in list(crew.errors)[-SHOWN_ERRORS:]],
        outage=outage,
        changes_per_second=round(rate, 1),
        account=account,
    )


def _summary(one: Round) -> str:
    verdict = "clean" if one.account.clean else f"NOT CLEAN: {one.account.by_kind} {one.account.problems}"
    return (
        f"round {one.seed}: {one.kills} kills in {one.seconds:.0f} s, {one.changes_per_second:.0f} changes/s,"
        f" {one.account.accepted} accepted, {one.account.stored} stored, outage {one.outage}: {verdict}"
    )


def _result(seed: int, minutes: float, rounds: list[Round]) -> dict[str, Any]:
    points: Counter[str] = Counter()
    for one in rounds:
        points.update(one.points)
    return {
        "what": "soak-crash",
        "clean": all(one.account.clean for one in rounds),
        "seed": seed,
        "minutes": minutes,
        "kills": sum(one.kills for one in rounds),
        "accepted_changes": sum(one.account.accepted for one in rounds),
        "stored_changes": sum(one.account.stored for one in rounds),
        "points_hit": dict(sorted(points.items())),
        "points_never_hit": sorted(set(POINTS) - points.keys()),
        "rounds": [asdict(one) for one in rounds],
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
    }


if __name__ == "__main__":
    sys.exit(main())
