"""Published state: digest, what differs, and facets that end with their process."""

from __future__ import annotations

from producers.agent.core import AgentState
from producers.agent.rendering import render
from producers.agent.source import VmView
from schemas.facets import Facet
from schemas.facets.console import Console, Display
from schemas.facets.guest import Guest
from schemas.facets.identity import Identity
from schemas.facets.run import Run
from schemas.fingerprints import NO_VM, U64, low64, raw_fingerprint, storage_facet
from schemas.ids import AgentEpoch
from schemas.report import Changes
from schemas.status import Status
from tests.unit.producers.agent.building import IDENTITY, START, up, vm_id


def state() -> AgentState:
    return AgentState(IDENTITY, AgentEpoch(b"e" * 16))


def test_digest_is_the_sum_over_what_travelled() -> None:
    agent = state()
    view = up(1)
    told = agent.publish(view.vm_id, agent.difference(view))
    claim = render(Identity(name="claim"))
    assert claim is not None
    agent.publish_host({"host_system": claim})
    agent.publish_storage({"domain": claim})
    expected = sum(low64(raw_fingerprint(view.vm_id, name, data)) for name, data in told.facets.items())
    expected += low64(raw_fingerprint(NO_VM, "host_system", claim.data))
    expected += low64(raw_fingerprint(NO_VM, storage_facet("domain"), claim.data))
    assert agent.digest == expected & U64
    assert agent.vm_count == 1


def test_taking_everything_away_leaves_nothing_in_the_digest() -> None:
    agent = state()
    for number in range(5):
        agent.publish(vm_id(number), agent.difference(up(number)))
    claim = render(Identity(name="claim"))
    assert claim is not None
    agent.publish_storage({"domain": claim})
    assert agent.remove_storage("domain")
    assert not agent.remove_storage("domain")
    assert all(agent.remove(vm_id(number)) for number in range(5))
    assert not agent.remove(vm_id(0))
    assert (agent.digest, agent.vm_count) == (0, 0)


def test_only_facets_that_differ_are_published() -> None:
    agent = state()
    agent.publish(vm_id(1), agent.difference(up(1)))
    assert agent.difference(up(1)) == {}
    assert agent.difference(up(1, name="b")).keys() == {Facet.IDENTITY}
    assert agent.difference(VmView(vm_id=vm_id(1), facets={})) == {}


def test_facets_of_a_run_end_with_its_process() -> None:
    agent = state()
    guest, console = Guest(agent_connected=True, fqdn="x"), Console(displays=[Display(type="vnc", port=5900)])
    agent.publish(vm_id(1), agent.difference(up(1, guest=guest, console=console)))
    down = VmView(vm_id=vm_id(1), facets={Facet.RUN: Run(status=Status.DOWN)})
    changed = agent.difference(down)
    assert changed.keys() == {Facet.RUN, Facet.GUEST, Facet.CONSOLE}
    assert changed[Facet.GUEST].data == changed[Facet.CONSOLE].data == b"\x80"
    agent.publish(vm_id(1), changed)
    assert agent.difference(down) == {}
    again = up(1, guest=guest, console=console)
    assert agent.difference(again).keys() == {Facet.RUN, Facet.GUEST, Facet.CONSOLE}


def test_an_unseen_restart_empties_what_was_not_read_again() -> None:
    agent = state()
    guest = Guest(agent_connected=True, fqdn="x")
    agent.publish(vm_id(1), agent.difference(up(1, guest=guest)))
    run = Run(status=Status.UP, process_id="2")
    unread = VmView(vm_id=vm_id(1), facets={Facet.RUN: run})
    assert agent.difference(unread).keys() == {Facet.RUN, Facet.GUEST}
    read = VmView(vm_id=vm_id(1), facets={Facet.RUN: run, Facet.GUEST: guest})
    assert agent.difference(read).keys() == {Facet.RUN}


def test_a_facet_no_reader_could_take_is_left_out_and_counted() -> None:
    agent = state()
    broken = VmView(vm_id=vm_id(1), facets={Facet.IDENTITY: Identity(vcpus="two"), Facet.RUN: Run(status=Status.UP)})  # type: ignore[arg-type]
    assert agent.difference(broken).keys() == {Facet.RUN}
    assert agent.unfit == 1


def test_sealed_reports_are_numbered_and_in_whole_microseconds() -> None:
    agent = state()
    observed = START._replace(wall_ns=START.wall_ns + 1_234)
    first = agent.seal(Changes(), observed=observed, sent=observed)
    second = agent.seal(Changes(), observed=observed, sent=observed.later(1.0))
    assert (first.seq, second.seq) == (1, 2)
    assert first.observed_at == START.wall_ns + 1_000
    assert first.agent_epoch == b"e" * 16
    heir = agent.succeed(AgentEpoch(b"f" * 16))
    assert (heir.seq, heir.opened, heir.digest) == (0, False, agent.digest)
