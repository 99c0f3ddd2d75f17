"""Have heads of VMs written again: intents into vm.intents; the proof is the head that comes by in vm.state."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

from infra.repair.log import Follower, Writer
from infra.runtime.settings import KafkaSettings
from infra.runtime.topics import VM_INTENTS, VM_STATE, TopicSet
from schemas.ids import partition_of
from schemas.intent import Intent, Operation


class AwaitedHeads:
    """Which of these VMs had their head written again. Pure."""

    def __init__(self, vm_ids: Sequence[str]) -> None:
        self.open = {vm_id.encode("ascii") for vm_id in vm_ids}

    @property
    def left(self) -> int:
        """VMs whose head did not come by."""
        return len(self.open)

    def hear(self, key: bytes, value: bytes, schema: bytes | None) -> None:
        """Take a record of vm.state. Any head that is written after the request was shows the VM as it is."""
        self.open.discard(key)


def republish(
    kafka: KafkaSettings,
    topics: TopicSet,
    vm_ids: Sequence[str],
    *,
    by: str,
    seconds: float,
    progress: Callable[[int], None],
) -> list[str]:
    """Announce it for these VMs (canonical ids) and wait; returns the ids whose head did not come by in time.

    Raises NeighbourUnreachable.
    """
    awaited = AwaitedHeads(vm_ids)
    homes = {partition_of(key, topics.partitions) for key in awaited.open}
    with Follower(kafka, topics, VM_STATE, homes) as follower:
        writer = Writer(kafka, topics, VM_INTENTS)
        for vm_id in vm_ids:
            intent = Intent(vm_id=vm_id, intent_id=f"republish-{uuid.uuid4()}", op=Operation.REPUBLISH, by=by)
            writer.write(vm_id.encode("ascii"), intent)
        writer.flush()
        follower.follow(awaited, seconds, progress)
    return [vm_id for vm_id in vm_ids if vm_id.encode("ascii") in awaited.open]
