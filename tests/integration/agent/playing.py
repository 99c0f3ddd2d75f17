"""Run agents in a thread of the test, and compare what they said with what is true."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from infra.runtime.errors import TransientError
from infra.runtime.kafka import make_producer
from infra.runtime.lifecycle import Service, Stop
from infra.runtime.topics import RESYNC_REQUESTS
from producers.agent.rendering import parse
from producers.agent.settings import AgentSettings
from producers.simulator.fleet import Fleet
from producers.simulator.runner import SimulatedFleetAgent
from producers.simulator.truth import fingerprints
from schemas.codec import SCHEMA_HEADER, encode, header_of
from schemas.facets import VM_FACETS, Facet
from schemas.ids import HostId, RequestId, key_of
from schemas.resync import Asker, ResyncRequest
from tests.integration.agent.conftest import Reports

S = TypeVar("S", bound=Service)


@contextmanager
def running(agent: S) -> Iterator[S]:
    """The agent set up and running; afterwards stopped in order."""
    stop = Stop()
    for attempt in range(20):
        try:
            agent.setup()
            break
        except TransientError:  # topics just made have no leader for a moment
            time.sleep(0.05 * attempt)
    else:
        pytest.fail("the agent never got ready")
    thread = threading.Thread(target=agent.run, args=(stop,))
    thread.start()
    try:
        yield agent
    finally:
        stop.set()
        thread.join(20)
        agent.close()
    assert not thread.is_alive()


def settled(agent: SimulatedFleetAgent, reports: Reports) -> None:
    """Read until every host's receiver has the digest its agent has."""
    agent.settle(quiet=True)
    wanted = agent.digests()
    reports.read_until(
        lambda: all(
            (reports.by_host[host].digest(), len(reports.by_host[host].vms)) == told for host, told in wanted.items()
        )
    )


def told(reports: Reports, fleet: Fleet) -> dict[int, dict[bytes, dict[str, str]]]:
    """Per host and VM the normalised fingerprints of the facets in the log."""
    found = {}
    for host in fleet.hosts:
        found[host.index] = {
            vm_id: fingerprints({Facet(name): parse(data, VM_FACETS[Facet(name)]) for name, data in facets.items()})
            for vm_id, facets in reports.by_host[host.host_id].vms.items()
        }
    return found


def assert_told_is_true(reports: Reports, fleet: Fleet) -> None:
    """Everything a hypervisor would answer is in the log; facets of an ended run may remain as empty ones."""
    found = told(reports, fleet)
    for host in fleet.hosts:
        assert found[host.index].keys() == {fleet.vms[vm].vm_id for vm in host.runs}
        for vm in host.runs:
            true = fingerprints(fleet.facets_of(vm, host.index))
            said = found[host.index][fleet.vms[vm].vm_id]
            assert {name: said.get(name) for name in true} == true


def ask_for_snapshot(settings: AgentSettings, host: HostId, number: int, *, force: bool) -> RequestId:
    """Write a resync request as a stage does; returns its id once it is in the log."""
    asked = ResyncRequest(
        request_id=RequestId(bytes([number]) * 16), host_id=host, force=force, asker=Asker.HOSTS, reason="test"
    )
    producer = make_producer(settings.kafka)
    producer.produce(
        settings.kafka.topic_prefix + RESYNC_REQUESTS,
        encode(asked),
        key_of(host),
        headers=[(SCHEMA_HEADER, header_of(ResyncRequest))],
    )
    assert producer.flush(10) == 0
    return asked.request_id
