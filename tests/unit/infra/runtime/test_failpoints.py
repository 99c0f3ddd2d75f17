"""Failpoints: which are armed, when they fire, and that a wrong name is refused."""

from __future__ import annotations

import pytest

from infra.runtime.errors import ConfigError
from infra.runtime.failpoints import POINTS, VARIABLE, Action, Armed, FailpointError, Failpoints, armed_in, parse


def test_one_point_per_item_with_action_and_hit() -> None:
    text = "vms.outbox.rows_delivered:kill:3, hosts.commit.done:drop,postgres.begun:sleep:0.5:2,vms.load.read"
    assert parse(text) == (
        Armed("vms.outbox.rows_delivered", Action.KILL, 3, 0.0),
        Armed("hosts.commit.done", Action.DROP, 1, 0.0),
        Armed("postgres.begun", Action.SLEEP, 2, 0.5),
        Armed("vms.load.read", Action.KILL, 1, 0.0),
    )
    assert parse("") == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("vms.outbox.nowhere:kill", "no point 'vms.outbox.nowhere'"),
        ("vms.load.read:explode", "names no action"),
        ("vms.load.read:kill:0", "no proper number"),
        ("vms.load.read:kill:x", "no proper number"),
        ("vms.load.read:kill:1:2", "no proper number"),
        ("vms.load.read:sleep", "no proper number"),
        ("vms.load.read:sleep:nan", "no proper number"),
        ("vms.load.read:drop", "no answer comes"),
    ],
)
def test_what_is_no_failpoint_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        armed_in({VARIABLE: text}, "hosts")
    assert says in str(refused.value)
    assert VARIABLE in str(refused.value)


def test_nothing_is_there_unless_a_point_of_this_component_is_armed() -> None:
    assert armed_in({}, "vms") is None
    assert armed_in({VARIABLE: "hosts.load.read:kill"}, "vms") is None
    assert armed_in({VARIABLE: "hosts.load.read:kill"}, "hosts") is not None


def test_a_point_fires_once_at_its_hit() -> None:
    deaths: list[str] = []
    points = Failpoints("vms", parse("vms.load.read:kill:3"), kill=lambda: deaths.append("dead"))
    for hit in range(1, 6):
        points.hit("load.settled")
        assert points.hit("load.read") is False
        assert len(deaths) == (hit >= 3)


def test_what_each_action_does() -> None:
    slept: list[float] = []
    armed = parse("vms.load.read:sleep:2.5,vms.load.settled:raise,vms.commit.done:drop")
    points = Failpoints("vms", armed, sleep=slept.append)
    assert points.hit("load.read") is False
    assert slept == [2.5]
    with pytest.raises(FailpointError, match=r"vms\.load\.settled"):
        points.hit("load.settled")
    assert points.hit("commit.done") is True
    assert points.hit("commit.done") is False


def test_many_hits_at_once_say_which_of_them_is_meant() -> None:
    points = Failpoints("vms", parse("vms.outbox.row:kill:10"))
    assert points.reached("outbox.row", 6) is None
    assert points.reached("outbox.row", 6) == 4
    assert points.reached("outbox.row", 6) is None


def test_every_point_says_what_is_true_at_it() -> None:
    for name, what in POINTS.items():
        assert name.split(".")[0] in ("hosts", "vms", "postgres")
        assert what
        assert "\n" not in what
