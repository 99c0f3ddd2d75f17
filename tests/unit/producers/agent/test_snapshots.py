"""The gate: requests merge, and one snapshot a minute has to do."""

from __future__ import annotations

from producers.agent.snapshots import MAX_ANSWERS, SnapshotGate
from schemas.ids import RequestId
from schemas.resync import Asker, ResyncRequest
from tests.unit.producers.agent.building import IDENTITY, START


def request(number: int, *, force: bool = False) -> ResyncRequest:
    return ResyncRequest(
        request_id=RequestId(number.to_bytes(16, "big")),
        host_id=IDENTITY.host_id,
        force=force,
        asker=Asker.VMS,
        reason="test",
    )


def test_open_requests_become_one_snapshot() -> None:
    gate = SnapshotGate(60.0)
    assert not gate.due(START)
    assert gate.ask(request(1))
    assert gate.ask(request(2, force=True))
    assert not gate.ask(request(1))
    assert gate.due(START)
    asked = gate.take(START)
    assert asked.answers == [request(1).request_id, request(2).request_id]
    assert asked.force
    assert not gate.ask(request(2))
    assert not gate.due(START.later(120))


def test_at_most_one_snapshot_an_interval() -> None:
    gate = SnapshotGate(60.0)
    gate.take(START)
    gate.ask(request(1))
    assert not gate.due(START.later(59.9))
    assert gate.due_at_ns() == START.later(60).monotonic_ns
    assert gate.due(START.later(60))
    assert not gate.take(START.later(60)).force


def test_requests_are_bounded() -> None:
    gate = SnapshotGate(60.0)
    taken = [gate.ask(request(number)) for number in range(MAX_ANSWERS + 10)]
    assert sum(taken) == MAX_ANSWERS
    assert len(gate.take(START).answers) == MAX_ANSWERS
