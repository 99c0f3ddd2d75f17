"""Evidence that is lost before it was read: below the start of the log, or between two batches of one source."""

from collections.abc import Iterable

from schemas.change import Cause
from schemas.observation import UNCHAINED, ObservationBatch
from schemas.status import Doubt
from streams.vms.emit import publish
from streams.vms.hosts import show_doubts
from streams.vms.repairs import want
from streams.vms.state import Host, Partition
from streams.vms.turn import Turn


def distrust(turn: Turn, hosts: Iterable[Host], reason: str) -> None:
    """Evidence of these hosts is lost, and may have said anything: their VMs are in doubt until they said it again."""
    state = turn.state
    for host in sorted(hosts, key=lambda one: one.id):
        host.confirmed = False
        host.reasons |= {Doubt.REBUILDING}
        state.dirty_hosts[host.id] = None
        want(state, host, reason)
        show_doubts(turn, host)
    for vm_id in turn.opened:
        turn.because(state.vms[vm_id], Cause.GAP)
    publish(turn)


def hear_chain(state: Partition, batch: ObservationBatch) -> bool:
    """Take note of how far a source's batches go; True when this one does not join what was heard of it before.

    A source heard for the first time, or one of version 1.0, proves nothing.
    """
    if batch.since == UNCHAINED:
        return False
    heard = state.clock.sources[batch.source]
    if batch.log < heard.chain_log:
        return False
    first = heard.chain_log < 0
    if batch.log > heard.chain_log:
        heard.chain_log, heard.until = batch.log, -1
    missing = not first and batch.since > heard.until
    heard.until = max(heard.until, batch.until)
    return missing


def forget_chains(state: Partition) -> None:
    """After a gap nothing is known of what joins."""
    for source in state.clock.sources:
        source.chain_log = source.until = -1
