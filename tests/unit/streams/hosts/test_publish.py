"""host.changes and host.state: design §3.5; INV-13, INV-6."""

import msgspec
import pytest

from schemas.change import Cause
from schemas.codec import encode
from schemas.facets.host import HostCapacity, HostReachability, HostSystem
from schemas.host_change import HostChange
from streams.hosts.policy import SECOND_NS
from tests.unit.streams.hosts.world import Agent, World, host_at, vm


@pytest.fixture
def agent() -> Agent:
    agent = Agent(host_at(0))
    agent.host = {
        "host_system": encode(HostSystem(hostname="h1", kernel="6.1")),
        "host_capacity": encode(HostCapacity(cpus=8)),
    }
    return agent


@pytest.fixture
def world(agent: Agent) -> World:
    world = World()
    world.tick(32)
    return world


def test_versions_have_no_holes_and_digests_are_chained(world: World, agent: Agent) -> None:
    changes: list[HostChange] = []
    changes += world.started(agent).changes
    changes += world.tick(20).changes
    changes += world.hear(agent.heartbeat()).changes
    changes += world.hear_all(agent.restarted().snapshot()).changes
    changes += world.tick(40).changes

    assert [change.version for change in changes] == [1, 2, 3, 4, 5]
    assert len({change.incarnation for change in changes}) == 1
    chain = [0, *(change.state_digest for change in changes)]
    assert [change.previous_digest for change in changes] == chain[:-1]
    assert len(set(chain)) == len(chain)
    assert [change.change_id for change in changes] == [
        f"{change.host_id}:{change.incarnation}:{change.version}" for change in changes
    ]


def test_first_change_carries_the_facets_whole(world: World, agent: Agent) -> None:
    (change,) = world.started(agent).changes

    system = change.facets["host_system"]
    assert (system.before, system.changed) == (None, ["hostname", "kernel"])
    assert msgspec.msgpack.decode(system.after, type=HostSystem) == HostSystem(hostname="h1", kernel="6.1")
    assert change.evidence.offset == 32
    assert change.evidence.seq == 1
    assert change.incarnation == world.now


def test_changed_facet_names_its_fields_and_what_they_were(world: World, agent: Agent) -> None:
    world.started(agent)

    said = world.hear(agent.change(host={"host_system": encode(HostSystem(hostname="h1", kernel="6.2"))}))

    (change,) = said.changes
    assert change.cause is Cause.REPORTED
    assert (change.facets["host_system"].before, change.facets["host_system"].changed) == (
        {"kernel": "6.1"},
        ["kernel"],
    )
    assert list(change.facets) == ["host_system"]
    assert (said.reports, said.requests) == ([], [])


def test_facet_that_differs_in_noted_fields_only_is_no_change(world: World, agent: Agent) -> None:
    agent.host["host_reachability"] = encode(HostReachability(source_connected=True, since=1))
    world.started(agent)

    later = {"host_reachability": encode(HostReachability(source_connected=True, since=2))}
    said = world.hear(agent.change(host=later))

    assert (said.changes, said.requests, said.dead) == ([], [], [])


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("host_system", b"\xc1", "facet_malformed"),
        ("host_system", encode({"hostname": 5}), "facet_malformed"),  # type: ignore[arg-type]
        ("host_later", b"x", "facet_unknown"),
        ("host_system", bytes(65 * 1024), "facet_too_large"),
    ],
)
def test_unreadable_facet_is_put_aside_and_keeps_the_old_value(
    world: World, agent: Agent, name: str, data: bytes, reason: str
) -> None:
    world.started(agent)

    said = world.hear(agent.change(host={name: data}))

    assert said.dead_reasons() == [reason]
    assert (said.changes, said.requests) == ([], [])
    assert world.hear(agent.heartbeat()).requests == []


def test_heartbeats_write_host_state_once_a_minute_and_no_change(world: World, agent: Agent) -> None:
    world.started(agent)

    said = world.tick(300, beat=(agent,))

    assert said.changes == []
    assert 4 <= len(said.states) <= 5
    last = said.states[-1]
    assert (last.version, last.confirmed, last.vm_count) == (1, True, 0)
    assert world.now - last.last_report_at <= 65 * SECOND_NS
    assert set(last.facets) == {"host_system", "host_capacity"}


def test_host_state_follows_every_change_and_names_its_digest(world: World, agent: Agent) -> None:
    said = world.started(agent)

    (state,), (change,) = said.states, said.changes
    assert (state.version, state.state_digest) == (change.version, change.state_digest)
    assert state.reachability == change.reachability


def test_number_of_vms_is_no_version(world: World, agent: Agent) -> None:
    world.started(agent)

    assert world.hear(agent.change({vm(0): {"run": b"r"}})).changes == []


def test_times_are_whole_microseconds_and_never_go_back(world: World, agent: Agent) -> None:
    world.started(agent)
    first = world.tick(20).changes[0]

    (change,) = world.hear(agent.heartbeat(), observed_at=world.now + 999).changes

    assert change.observed_at == world.now
    world.now -= 10 * SECOND_NS
    (earlier,) = world.hear(agent.change(host={"host_capacity": encode(HostCapacity(cpus=9))})).changes
    assert first.detected_at <= change.detected_at == earlier.detected_at
