"""Ports are remembered while free, chosen anew when taken, and never promised twice."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.stack.layout import StackPaths
from infra.stack.ports import LOOPBACK, choose, is_free
from infra.stack.starting import promised_elsewhere
from infra.stack.state import StackState, write_state


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.create_server((LOOPBACK, 0)) as listener:
        port: int = listener.getsockname()[1]
        yield port


def test_a_remembered_port_is_kept_while_it_is_free() -> None:
    port = choose(None, ())
    assert choose(port, ()) == port
    assert choose(port, {port}) == port


def test_a_taken_port_is_replaced(busy_port: int) -> None:
    assert not is_free(busy_port)
    chosen = choose(busy_port, ())
    assert chosen != busy_port
    assert is_free(chosen)


def test_a_promised_port_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([20_001, 20_001, 20_002])
    monkeypatch.setattr("infra.stack.ports.random.randint", lambda first, last: next(drawn))
    monkeypatch.setattr("infra.stack.ports.is_free", lambda port: True)
    assert choose(None, {20_001}) == 20_002


def test_ports_lie_below_those_of_outgoing_connections() -> None:
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(choose(None, ()) < max(lowest_outgoing, 32_000) for _ in range(20))


def test_the_ports_of_the_stacks_beside_are_promised(tmp_path: Path) -> None:
    for name, port in (("mine", 1), ("theirs", 2), ("others", 3)):
        write_state(tmp_path / name / "stack.json", StackState(ports={"kafka": port}))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "stack.json").write_text("{")
    assert promised_elsewhere(StackPaths.of("mine", tmp_path)) == {2, 3}
