"""Two deaths in a row: rows that the first left behind, without the partition row that would count them."""

from __future__ import annotations

from schemas.codec import encode
from schemas.facets.console import Console
from schemas.facets.guest import Guest
from schemas.facets.identity import Identity
from schemas.ids import VmId
from streams.hosts.core import HostsCore
from streams.hosts.loader import HostsLoader
from streams.runtime.stage import Input, Row
from tests.unit.streams.hosts.world import PARTITION, Agent, Said, World, host_at, inputs_of, vm

Told = list[tuple[VmId, dict[str, bytes]]]


def _told(core: HostsCore, inputs: list[Input]) -> tuple[Told, list[Row]]:
    """What the core says of VMs when it applies these, and the rows of that batch."""
    for record in inputs:
        core.apply(record)
    batch = core.seal()
    said = Said()
    said.add(batch.outputs)
    return [(one.vm_id, one.facets) for _, report in said.reports for one in report.vms], list(batch.rows)


def _by_vm(told: Told) -> dict[VmId, list[dict[str, bytes]]]:
    """What was said of each VM, in order; which VM comes first depends on its partition."""
    found: dict[VmId, list[dict[str, bytes]]] = {}
    for vm_id, facets in told:
        found.setdefault(vm_id, []).append(facets)
    return found


def test_rows_torn_off_are_not_counted_by_the_partition_row_of_a_later_smaller_batch() -> None:
    world = World()
    agent = Agent(host_at(0))
    agent.vms = {vm(n): {"identity": encode(Identity(name="x")), "guest": encode(Guest())} for n in range(2)}
    world.started(agent)
    reports = [
        agent.change({vm(1): {"guest": encode(Guest(fqdn="other"))}}),
        agent.change({vm(0): {"guest": encode(Guest(fqdn="a"))}}),
        agent.change({vm(0): {"guest": encode(Guest(fqdn="b")), "console": encode(Console(client_ip="b"))}}),
    ]
    inputs = [inputs_of(report, offset=world.offset + n, at=world.now) for n, report in enumerate(reports)]
    log = [row for batch in world.loader_rows for row in batch.rows]

    def restarted() -> HostsCore:
        loader = HostsLoader(world.config, PARTITION)
        for row in log:
            loader.add(*row)
        return loader.finish()

    whole, rows = _told(restarted(), inputs)
    log += rows[:-1]  # dies before the partition row
    first, rows = _told(restarted(), inputs[:1])
    log += rows  # a batch of the first input alone is whole, then it dies again
    rest, _ = _told(restarted(), inputs[1:])
    assert _by_vm(first + rest) == _by_vm(whole)
