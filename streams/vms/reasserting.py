"""Writes rows of vm.state again over what a dead owner wrote late: compaction keeps the last row, not the newest."""

from schemas.ids import HostId, VmId, uuid_bytes
from streams.vms.facets import SLOT_OF
from streams.vms.rows import HOST_PREFIX
from streams.vms.state import Partition


def reassert(state: Partition, key: bytes) -> None:
    """The row of this key goes with the next batch, or its deletion when there is none. Unknown keys are left alone."""
    if key.startswith(HOST_PREFIX):
        host_id = _id_of(key.removeprefix(HOST_PREFIX))
        if host_id is not None and HostId(host_id) in state.hosts:
            state.dirty_hosts[HostId(host_id)] = None
        return
    vm, _, told = key.partition(b"/")
    host, _, facet = told.partition(b"/")
    vm_id = _id_of(vm)
    if vm_id is None:
        return
    if not told:
        state.dirty_heads[VmId(vm_id)] = None
        return
    host_id, slot = _id_of(host), SLOT_OF.get(facet.decode("ascii", "replace"))
    if host_id is not None and slot is not None:
        place = VmId(vm_id), HostId(host_id), slot
        held = state.vms.get(place[0])
        claim = None if held is None else held.claim_of(place[1])
        if claim is None or claim.facets[slot] is None:
            state.deletable_facets[place] = None
        else:
            state.dirty_facets[place] = None


def _id_of(text: bytes) -> bytes | None:
    try:
        return uuid_bytes(text.decode("ascii"))
    except ValueError:
        return None
