"""`deltavisor topics adopt`: topics were created again, or lost their end, and the tables are whole.

host.reports: the next `log`, so that evidence of the new topic stands above all that was heard in the old one.
vm.observations: the next generation. In both cases what was lost between may have said anything: nothing is confirmed,
every host is asked for a whole snapshot. vm.changes and host.changes: the sink's positions (see `infra.rebuild.sink`).
"""

from __future__ import annotations

import msgspec

from infra.rebuild.tables import Opened, hosts_tables, vms_tables
from infra.rebuild.workers import set_offsets
from infra.runtime.errors import TopicMismatch
from infra.runtime.settings import KafkaSettings
from infra.runtime.topics import HOSTS_TABLE, VM_STATE, FoundTopic
from streams.hosts.core import HostsCore
from streams.runtime.kept import REBUILD_ADVICE
from streams.vms.core import VmsCore


class Adoption(msgspec.Struct, kw_only=True):
    """What has to be adopted, and where everything stands."""

    hosts: dict[int, int] = {}
    """Partitions whose host.reports is another log -> the offset to go on from."""
    vms: dict[int, int] = {}
    """The same of vm.observations."""
    vm_heads: dict[bytes, tuple[int, int]] = {}
    """(incarnation, version) of every VM."""
    host_heads: dict[bytes, tuple[int, int]] = {}
    """The same of hosts."""


def look(kafka: KafkaSettings, partitions: int, found: dict[str, FoundTopic]) -> Adoption:
    """Find out what has to be adopted. Raises TopicMismatch when a table is lost: that is a rebuild's work."""
    adoption = Adoption()
    hosts, vms = hosts_tables(kafka, partitions, found), vms_tables(kafka, partitions, found)
    for partition in range(partitions):
        one = hosts.open(partition)
        _require_whole(one, found[HOSTS_TABLE].name)
        if one.foreign or one.beyond_the_end:
            adoption.hosts[partition] = _first(one)
        for host_id, host in one.core.hosts.items():
            adoption.host_heads[host_id] = host.row.incarnation, host.row.version
    for partition in range(partitions):
        other = vms.open(partition)
        _require_whole(other, found[VM_STATE].name)
        if other.foreign or other.beyond_the_end:
            adoption.vms[partition] = _first(other)
        for vm_id, vm in other.core.state.vms.items():
            adoption.vm_heads[vm_id] = vm.incarnation, vm.version
    return adoption


def adopt(kafka: KafkaSettings, partitions: int, found: dict[str, FoundTopic], adoption: Adoption) -> None:
    """Do it; killed anywhere, it is run again and finds less to do."""
    hosts = hosts_tables(kafka, partitions, found, another_log=frozenset(adoption.hosts))
    for partition, first in adoption.hosts.items():
        core = hosts.open(partition).core
        core.applied = first - 1
        hosts.write(partition, core.seal(), last=True)
    set_offsets(kafka, hosts.group, hosts.input_topic, adoption.hosts)
    vms = vms_tables(kafka, partitions, found, another_log=frozenset(adoption.vms))
    for partition, first in adoption.vms.items():
        one = vms.open(partition).core
        one.gap(0, first)
        vms.write(partition, one.seal(), last=True)
    set_offsets(kafka, vms.group, vms.input_topic, adoption.vms)


def _first(one: Opened[HostsCore] | Opened[VmsCore]) -> int:
    """A new topic is read from its start; of one that lost its end, what is left was read before."""
    return one.bounds.start if one.foreign else one.bounds.end


def _require_whole(one: Opened[HostsCore] | Opened[VmsCore], topic: str) -> None:
    if one.loss is not None:
        raise TopicMismatch(one.loss, where=f"{topic}[{one.partition}]", advice=REBUILD_ADVICE)
