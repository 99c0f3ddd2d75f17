"""Fleets: the same by seed, cheap, bounded; virtual time; readings carry the moment of the change."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.runtime.errors import ConfigError
from producers.simulator import definitions, scripts
from producers.simulator.clock import VirtualClock, elapse
from producers.simulator.fleet import Fleet
from producers.simulator.truth import TruthFile, fingerprints, read_truth, truth_of, write_truth
from schemas.facets import VM_FACETS
from schemas.ids import uuid_text


def fleet(seed: int = 1, *, hosts: int = 3, vms: int = 30) -> Fleet:
    return Fleet(hosts=hosts, vms=vms, seed=seed, clock=VirtualClock())


def test_the_same_seed_is_the_same_fleet() -> None:
    one, other, third = fleet(1), fleet(1), fleet(2)
    assert truth_of(one) == truth_of(other)
    assert not {vm.vm_id for vm in one.vms} & {vm.vm_id for vm in third.vms}
    assert len({vm.vm_id for vm in one.vms} | {host.host_id for host in one.hosts}) == 33


def test_vms_are_dealt_out_to_the_hosts() -> None:
    assert [len(host.runs) for host in fleet(hosts=4, vms=10).hosts] == [3, 3, 2, 2]


@pytest.mark.parametrize(("hosts", "vms"), [(0, 1), (1, 20_001), (100_001, 1)])
def test_a_fleet_that_can_not_be_is_refused(hosts: int, vms: int) -> None:
    with pytest.raises(ConfigError, match="can not be simulated; at most 20000 VMs per host"):
        fleet(hosts=hosts, vms=vms)


def test_facets_are_of_the_declared_kinds_and_unlike_each_other() -> None:
    simulated = fleet(vms=16)
    seen = set()
    for vm in simulated.vms:
        facets = simulated.facets_of(vm.index, vm.owner)
        assert all(type(value) is VM_FACETS[name] for name, value in facets.items())
        seen.add(tuple(sorted(fingerprints(facets).items())))
    assert len(seen) == 16


def test_ids_have_the_form_of_uuids() -> None:
    text = uuid_text(definitions.derived_id(7, "vm", 5))
    assert text[14] == "4"
    assert text[19] in "89ab"
    assert definitions.derived_id(7, "vm", 5) == definitions.derived_id(7, "vm", 5)


def test_steps_happen_at_their_own_virtual_moments() -> None:
    clock = VirtualClock()
    simulated = Fleet(hosts=1, vms=2, seed=1, clock=clock)
    began = clock.now()
    simulated.start(scripts.stop(0))
    simulated.start(scripts.stop(1))
    elapse(simulated, clock, 1.0)
    assert simulated.steps_done == 2
    elapse(simulated, clock, 60.0)
    run = simulated.run_of(0)
    assert run is not None
    assert run.since == began.later(1.6).wall_ns
    assert clock.now() == began.later(61.0)


def test_readings_carry_the_moment_of_the_change() -> None:
    clock = VirtualClock()
    simulated = Fleet(hosts=1, vms=3, seed=1, clock=clock)
    moments = []
    for vm in range(3):
        clock.move(0.25)
        moments.append(clock.now().wall_ns)
        simulated.perform(scripts.plug(vm).steps[0])
    clock.move(5.0)
    readings = simulated.readings(0)
    assert [reading.observed_at for reading in readings] == moments
    assert simulated.readings(0) == []


@pytest.mark.parametrize("name", ["truth.json", "truth.msgpack"])
def test_truth_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert read_truth(path) is None
    truth = truth_of(fleet())
    content = TruthFile(
        phase=1,
        final=False,
        stable_since_ns=5,
        stable_until_ns=None,
        written_at_ns=6,
        seed=1,
        steps_done=0,
        counters={"facets": 1},
        vms=truth.vms,
        hosts=truth.hosts,
    )
    write_truth(path, content)
    assert read_truth(path) == content
    assert [entry.name for entry in path.parent.iterdir()] == [name]
