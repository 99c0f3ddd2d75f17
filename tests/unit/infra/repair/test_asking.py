"""Which hosts and VMs are meant, and what counts as an answer."""

import msgspec
import pytest

from infra.repair.fleet import KnownHost, choose, vm_ids
from infra.repair.republish import AwaitedHeads
from infra.repair.resync import AwaitedSnapshots
from infra.runtime.errors import ConfigError
from schemas.codec import encode, header_of
from schemas.ids import HostId, RequestId, key_of
from schemas.report import HostReport
from schemas.resync import Asker, ResyncRequest
from schemas.status import Reachability
from tests.unit.streams.hosts.world import Agent, vm

HOSTS = [HostId(bytes([number]) * 16) for number in range(3)]
KNOWN = [
    KnownHost(host_id=host_id, name=f"host{number}" if number else None, reachability=Reachability.UP)
    for number, host_id in enumerate(HOSTS)
]
HEADER = header_of(HostReport)


def names(*given: str) -> list[HostId]:
    return [host.host_id for host in choose(KNOWN, given)]


def test_a_host_is_named_by_id_its_beginning_or_its_name() -> None:
    assert names("host1", "02020202-02", "00000000-0000-0000-0000-000000000000") == [HOSTS[1], HOSTS[2], HOSTS[0]]
    assert names("host1", "host1") == [HOSTS[1]]


@pytest.mark.parametrize("name", ["host9", "0202", "", "09090909"])
def test_an_unknown_host_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match="no host is known"):
        names(name)


def test_a_name_that_two_hosts_have_is_an_error() -> None:
    twins = [msgspec.structs.replace(host, name="twin") for host in KNOWN]

    with pytest.raises(ConfigError, match="means 3 hosts"):
        choose(twins, ["twin"])


def test_ids_of_vms_are_canonical_and_once() -> None:
    assert vm_ids(["0" * 32, "00000000-0000-0000-0000-000000000000"]) == ["00000000-0000-0000-0000-000000000000"]
    with pytest.raises(ConfigError, match="not an id"):
        vm_ids(["web-1"])


@pytest.fixture
def agent() -> Agent:
    made = Agent(HOSTS[0])
    made.vms = {vm(index): {"run": b"r"} for index in range(4)}
    return made


def request(host_id: HostId, number: int) -> ResyncRequest:
    return ResyncRequest(
        request_id=RequestId(bytes([100 + number]) * 16),
        host_id=host_id,
        force=True,
        asker=Asker.OPERATOR,
        reason="operator",
    )


def test_only_the_last_part_of_a_snapshot_that_names_the_request_is_an_answer(agent: Agent) -> None:
    mine, other = request(HOSTS[0], 0), request(HOSTS[1], 1)
    awaited = AwaitedSnapshots([mine, other])
    key = key_of(HOSTS[0])
    last_of_another = agent.snapshot(2, answers=(other.request_id,))[1]
    first, last = agent.snapshot(2, answers=(RequestId(bytes(16)), mine.request_id))

    for report in (agent.heartbeat(), *agent.snapshot(1), last_of_another, first):
        awaited.hear(key, encode(report), HEADER)
    awaited.hear(key, b"\xc1" + mine.request_id, HEADER)
    awaited.hear(key_of(HOSTS[2]), encode(last), HEADER)
    assert (awaited.left, awaited.parts) == (2, {key: (1, 2)})

    awaited.hear(key, encode(last), HEADER)
    assert awaited.keys == {key_of(HOSTS[1])}


def test_a_head_that_comes_by_is_what_was_asked_for() -> None:
    awaited = AwaitedHeads(["a", "b"])

    awaited.hear(b"a", b"", None)
    awaited.hear(b"a/host/run", b"", None)

    assert awaited.open == {b"b"}
