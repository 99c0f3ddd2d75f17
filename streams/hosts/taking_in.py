"""A host that is known from elsewhere, when the table was lost: as a row that says nothing but who it is. Pure."""

from collections.abc import Mapping

import msgspec

from schemas.facets import HOST_FACETS, HostFacet
from schemas.facets.normal import fingerprint
from schemas.host_rows import HostFacetRow, HostRow, Silence
from schemas.ids import AgentEpoch, BootId, HostId, MachineId
from schemas.status import Reachability
from streams.hosts.host_facets import note_change
from streams.hosts.state import Host


class KnownHost(msgspec.Struct, frozen=True, kw_only=True):
    """What was last known of a host; `facets`: canonical maps by name."""

    host_id: HostId
    machine_id: MachineId
    boot_id: BootId
    agent_epoch: AgentEpoch
    incarnation: int
    version: int
    reachability: Reachability
    facets: Mapping[str, bytes] = {}

    @property
    def order(self) -> tuple[int, int]:
        """What is higher is newer."""
        return self.incarnation, self.version


def host_of(known: KnownHost, at: int) -> Host:
    """The host for `HostsCore.take_in`: silent until it speaks, so that one that never does again is no news.

    What an operator said of it stays: maintenance, fenced. Its agent may go on in the epoch it had, with a gap.
    """
    row = HostRow(
        applied=-1,
        machine_id=known.machine_id,
        boot_id=known.boot_id,
        agent_epoch=known.agent_epoch,
        epoch_at=at,
        incarnation=known.incarnation,
        silence=Silence.SILENT,
        maintenance=known.reachability is Reachability.MAINTENANCE,
        fenced_boot=known.boot_id if known.reachability is Reachability.FENCED else None,
    )
    host = Host(known.host_id, row)
    for name, value in known.facets.items():
        try:
            facet = msgspec.msgpack.decode(value, type=HOST_FACETS[HostFacet(name)])
        except (ValueError, msgspec.DecodeError):
            continue
        row.facets[name] = HostFacetRow(value, fingerprint(facet))
        note_change(host, HostFacet(name), None, facet, value)
    return host
