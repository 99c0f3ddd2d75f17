"""Hourly sums: does this partition hold of a host what the hosts stage let through (design §4 "Repair paths").

The sums stand in the order of the log, so what is under way makes no difference. Equal sums are the end of it; a
difference asks the host, and the third in a row says that asking does not help.
"""

from typing import Final

from schemas.fingerprints import U64
from schemas.observation import FacetSum
from streams.vms.facets import raw_of
from streams.vms.policy import UNEQUAL_SUMS
from streams.vms.repairs import drop_need, want
from streams.vms.state import Host, Partition
from streams.vms.turn import Turn

REASON: Final = "unequal_sums"
_EQUAL: Final = ("facet_sums", "equal")
_UNEQUAL: Final = ("facet_sums", "unequal")
_FLAGGED: Final = ("facet_sums", "flagged")


def held_of(state: Partition, host: Host) -> FacetSum:
    """Number of VMs on this host's list, and sum over their facets as the host sent them, rejected ones too."""
    count = total = 0
    for vm_id in host.claims:
        claim = state.vms[vm_id].claim_of(host.id)
        if claim is None or claim.borrowed:
            continue
        count += 1
        for packed in claim.facets:
            if packed is not None:
                total += int.from_bytes(raw_of(packed), "big")
    return FacetSum(count, total & U64)


def compare(turn: Turn, host: Host, told: FacetSum) -> None:
    """Take the sums of one host. The caller knows that nothing later of this host had an effect yet."""
    state = turn.state
    if turn.at <= state.torn:
        return  # rows of a torn batch are ahead of this place in the log
    if held_of(state, host) == told:
        state.count(*_EQUAL)
        if host.unequal:
            host.unequal = 0
            state.dirty_hosts[host.id] = None
        return
    host.unequal = min(host.unequal + 1, UNEQUAL_SUMS)
    state.dirty_hosts[host.id] = None
    if host.unequal < UNEQUAL_SUMS:
        state.count(*_UNEQUAL)
        want(state, host, REASON)
        return
    state.count(*_FLAGGED)
    if host.repair is not None and host.repair.reason == REASON:
        drop_need(state, host)
