"""What care for a suspect remembers: what an input touches, and all of that."""

from typing import Any

import pytest

from schemas.ids import BootId, VmId, uuid_text
from schemas.observation import VmObservation
from streams.vms import timers
from streams.vms.undo import Undo
from tests.unit.streams.vms.scene import Scene, facets_of, host_id, run
from tests.unit.streams.vms.test_poison import BAD, GOOD, batch_of


@pytest.fixture
def scene() -> Scene:
    """Two VMs up on one host."""
    made = Scene()
    made.host("S")
    for vm in (GOOD, BAD):
        made.tell("S", run("up"), vm=vm)
    return made


def test_care_costs_what_the_input_touches_and_not_what_the_partition_holds(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Copyable(set[VmId]):
        """Counts how often it is copied."""

        copies = 0

        def copy(self) -> set[VmId]:
            type(self).copies += 1
            return set(self)

    class Uncopied(dict[Any, Any]):
        """All of the partition."""

        def copy(self) -> Any:
            raise AssertionError("the whole partition is copied")

        def items(self) -> Any:
            raise AssertionError("the whole partition is looked at")

    def deep(queue: Any, memo: Any) -> Any:
        raise AssertionError("timers are copied one by one")

    scene.core.state.suspects.add(BAD)
    for number in range(40):
        scene.host(f"other{number}")
    state = scene.core.state
    state.vms, state.hosts = Uncopied(state.vms), Uncopied(state.hosts)
    for host in state.hosts.values():
        host.claims = Copyable(host.claims)
    monkeypatch.setattr(timers.TimerQueue, "__deepcopy__", deep, raising=False)
    record = batch_of(
        scene,
        VmObservation(BAD, facets_of("S", run("paused"))),
        VmObservation(GOOD, facets_of("S", run("paused", pause="user"))),
    )
    changes = scene.apply(record.value, record.schema)
    assert {change.vm_id for change in changes[-2:]} == {uuid_text(GOOD), uuid_text(BAD)}
    assert Copyable.copies == 1, "of the host that spoke"
    assert (type(state.vms), type(state.hosts)) == (Uncopied, Uncopied)


def test_a_host_first_heard_in_what_is_put_back_is_as_unknown_as_before(scene: Scene) -> None:
    state = scene.core.state
    stranger, boot = host_id("E"), BootId(bytes(16))
    state.orphans[stranger] = {GOOD}
    undo = Undo(state)
    state.host(stranger, 0, boot).claims.add(BAD)
    del state.vms[GOOD]
    state.hosts[scene.speakers["S"].id].claims.clear()
    undo.restore()
    assert stranger not in state.hosts
    assert state.orphans == {stranger: {GOOD}}
    assert state.hosts[scene.speakers["S"].id].claims == {GOOD, BAD}
    assert set(state.vms) == {GOOD, BAD}
