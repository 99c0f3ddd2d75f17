"""Random life: its rate, its stable stretches, and that it is the same for the same seed."""

from __future__ import annotations

import math

import pytest

from infra.runtime.errors import ConfigError
from producers.simulator.clock import VirtualClock, elapse
from producers.simulator.fleet import Fleet
from producers.simulator.life import Life, Phase, PhaseKind, parse_phases
from producers.simulator.settings import SimulatorSettings
from producers.simulator.truth import Truth, truth_of


def test_phases_are_read() -> None:
    assert parse_phases("busy:30, stable:0.5,busy") == (
        Phase(kind=PhaseKind.BUSY, seconds=30),
        Phase(kind=PhaseKind.STABLE, seconds=0.5),
        Phase(kind=PhaseKind.BUSY, seconds=math.inf),
    )
    assert parse_phases("") == ()


@pytest.mark.parametrize("text", ["quiet:3", "busy:x", "busy:-1", "stable:0", "busy:nan"])
def test_what_is_no_phase_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="life"):
        parse_phases(text)
    with pytest.raises(ConfigError, match="life"):
        SimulatorSettings.load(None, None, {"life": text})


def play(seed: int, seconds: float) -> tuple[Fleet, Life]:
    clock = VirtualClock()
    fleet = Fleet(hosts=5, vms=100, seed=3, clock=clock)
    life = Life(fleet, rate=40, phases=parse_phases("busy:10,stable:20,busy:5"), seed=seed)
    for _ in range(int(seconds / 0.02)):
        life.advance()
        elapse(fleet, clock, 0.02)
        life.advance()
        fleet.advance()
    return fleet, life


def truth(seed: int) -> Truth:
    return truth_of(play(seed, 60.0)[0])


def test_the_same_seed_is_the_same_life() -> None:
    assert truth(1) == truth(1)
    assert truth(1) != truth(2)


def test_busy_phases_have_the_rate_and_stable_ones_nothing() -> None:
    fleet, life = play(1, 9.9)
    assert 380 <= fleet.steps_done <= 420
    assert not life.stable
    fleet, life = play(1, 20.0)
    assert life.stable
    assert (life.stable_phases, fleet.running_scripts, fleet.busy) == (1, 0, set())
    assert life.stable_until_ns is not None
    assert life.stable_since_ns is not None
    assert life.stable_until_ns - life.stable_since_ns == 20_000_000_000
    settled = fleet.steps_done
    later, _ = play(1, 29.0)
    assert later.steps_done == settled


def test_life_ends_in_stability() -> None:
    fleet, life = play(1, 60.0)
    assert life.stable
    assert life.stable_phases == 2
    assert life.stable_until_ns is None
    assert life.next_due_ns() is None
    assert fleet.steps_done > 560


def test_no_phases_is_busy_for_ever_and_no_rate_is_stable() -> None:
    clock = VirtualClock()
    fleet = Fleet(hosts=1, vms=1, seed=1, clock=clock)
    busy, idle = Life(fleet, rate=5), Life(fleet, rate=0)
    for _ in range(3):
        busy.advance()
        idle.advance()
        elapse(fleet, clock, 0.5)
    idle.advance()
    assert not busy.stable
    assert fleet.steps_done >= 1


def test_a_fleet_without_vms_lives_quietly() -> None:
    clock = VirtualClock()
    fleet = Fleet(hosts=2, vms=0, seed=1, clock=clock)
    life = Life(fleet, rate=100)
    clock.move(1.0)
    life.advance()
    clock.move(1.0)
    life.advance()
    assert fleet.steps_done == 0
