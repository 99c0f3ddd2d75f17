"""Every folder here is a history and what must come of it; README.md explains the two files.

`python -m tests.cases.test_cases <case>` prints what comes of a case now, to be read before it is believed.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from schemas.change import Cause
from schemas.facets.console import Console
from schemas.ids import VmId, uuid_text
from schemas.observation import VmObservation
from schemas.status import GoneReason, Status
from schemas.vm_change import VmChange
from tests.unit.streams.vms.scene import EVENTS, VM, Scene, brief, facets_of, host_id, introduction, run

CASES = Path(__file__).parent
LAST_TICKS = 130
_NAMES = {"peer": "peer", "phase": "phase", "reason": "reason", "pause": "pause", "exit": "exit_", "process": "process"}


def statements(case: str) -> Iterator[str]:
    """Lines of a case's log, without comments."""
    for line in (CASES / case / "log.txt").read_text().splitlines():
        if text := line.partition("#")[0].strip():
            yield text


def play(case: str) -> Scene:
    """The scene after this history."""
    scene = Scene(partitions=2)
    for text in statements(case):
        name, _, rest = text.partition(" ")
        if name == "hosts":
            for word in rest.split():
                letter, _, source = word.partition("@")
                scene.host(letter, int(source))
        elif name == "tick":
            ticks, _, without = rest.partition(" without ")
            scene.tick(int(ticks), without=[int(without)] if without else [])
        else:
            _say(scene, name, rest)
    scene.tick(LAST_TICKS)
    return scene


def _say(scene: Scene, name: str, rest: str) -> None:
    """One report; its items are separated by commas."""
    facets: dict[str, bytes] = {}
    gone: GoneReason | None = None
    inventory: list[VmId] | None = None
    events: list[str] = []
    age = 0.0
    for item in rest.split(","):
        word, *words = item.split()
        if word == "boots":
            scene.boot(name)
            events.append("new_boot")
        elif word == "lists":
            inventory = [VM] if words == ["vm"] else []
        elif word == "gone":
            gone = GoneReason(words[0])
        elif word in EVENTS:
            events.append(word)
        else:
            what = dict(pair.split("=", 1) for pair in words)
            age = float(what.pop("age", "0"))
            fields = {_NAMES[key]: value or None for key, value in what.items()}
            facets = {**introduction(scene, name, VM), **facets_of(name, run(Status(word), host=name, **fields))}
    vms = [VmObservation(VM, facets, gone)] if facets or gone else []
    if gone is not None:
        scene.speakers[name].introduced.discard(VM)
    scene.say(name, vms=vms, inventory=inventory, events=events, age_seconds=age)


def told(changes: list[VmChange]) -> list[str]:
    """The changes as `changes.txt` has them."""
    runs: list[str | None] = []
    lines = []
    for change in changes:
        if change.run_id not in runs:
            runs.append(change.run_id)
        known = [run_id for run_id in runs if run_id is not None]
        words = [brief(change), f"e{change.ownership_epoch}"]
        if change.run_id is not None:
            words.append(f"r{known.index(change.run_id) + 1}")
        console = change.facets.get("console")
        if console is not None and not console.cleared:
            address = msgspec.msgpack.decode(bytes(console.after), type=Console).displays[0].address
            words.append(f"facets={address}")
        lines.append(" ".join(words))
    return lines


def names() -> list[str]:
    return sorted(path.parent.name for path in CASES.glob("*/log.txt"))


@pytest.mark.parametrize("case", names())
def test_case(case: str) -> None:
    expected = (CASES / case / "changes.txt").read_text().splitlines()
    assert told(play(case).changes) == expected


CLEAN = [name for name in names() if name.startswith(("migration_s1_", "migration_d1_", "migration_coalesced_"))]


@pytest.mark.parametrize("case", CLEAN)
def test_the_first_orders_are_clean(case: str) -> None:
    """One hand-over, never down, facets of D, same run (rules §5)."""
    changes = play(case).changes
    assert [change.cause for change in changes].count(Cause.HANDED_OVER) == 1
    assert all(change.status is not Status.DOWN for change in changes)
    assert len({change.run_id for change in changes}) == 1
    last = told(changes)
    assert [line for line in last if "facets=D" in line]
    assert changes[-1].host_id == uuid_text(host_id("D"))
    assert changes[-1].status is Status.UP
    assert changes[-1].availability.reasons == []


def test_all_first_orders_are_here() -> None:
    assert len(CLEAN) == 8


if __name__ == "__main__":
    for line in told(play(sys.argv[1]).changes):
        sys.stdout.write(line + "\n")
