"""The ground truth of a simulated fleet in one plain structure: what has to be found downstream once it is quiet."""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from producers.simulator.fleet import Fleet, SimulatedVm
from schemas.facets import Facet
from schemas.facets.normal import fingerprint
from schemas.ids import uuid_text
from schemas.status import ALIVE, Believed, ExitReason, ExitStatus, Reachability, Status


class VmTruth(msgspec.Struct, frozen=True, kw_only=True):
    """One VM as it has to be derived. `facets`: normalised fingerprints in hex of the facets it must have."""

    status: Status
    availability: Believed
    host_id: str | None
    """Owner; None once removed."""
    exit_status: ExitStatus | None
    exit_reason: ExitReason | None
    facets: dict[str, str]


class HostTruth(msgspec.Struct, frozen=True, kw_only=True):
    """One host; `vms`: how many it lists."""

    reachability: Reachability
    boot_id: str
    vms: int


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, by id text. Facets of a run are left out of VMs that ended."""

    vms: dict[str, VmTruth]
    hosts: dict[str, HostTruth]


class TruthFile(msgspec.Struct, frozen=True, kw_only=True):
    """What `--truth-file` holds. `phase` counts stable stretches from 1; times are wall clock, UTC ns."""

    phase: int
    final: bool
    """Written when the agent stopped."""
    stable_since_ns: int
    """Nothing happened in the fleet after this."""
    stable_until_ns: int | None
    """Planned end of the stable stretch; None: it lasts until the agent stops."""
    written_at_ns: int
    seed: int
    steps_done: int
    """Happenings in the fleet since the start."""
    counters: dict[str, int]
    """What the agents sent: reports, facets, gone, heartbeats, snapshots, coalesced."""
    vms: dict[str, VmTruth]
    hosts: dict[str, HostTruth]


def truth_of(fleet: Fleet) -> Truth:
    """What must be found downstream of a fleet in which nothing is under way."""
    return Truth(
        vms={uuid_text(vm.vm_id): _vm(fleet, vm) for vm in fleet.vms},
        hosts={
            uuid_text(host.host_id): HostTruth(
                reachability=_reachability(host.reports, host.farewell, host.connected),
                boot_id=uuid_text(host.boot_id),
                vms=len(host.runs),
            )
            for host in fleet.hosts
        },
    )


def _vm(fleet: Fleet, vm: SimulatedVm) -> VmTruth:
    host = fleet.hosts[vm.owner]
    run = host.runs.get(vm.index)
    if run is None or vm.removed:
        return VmTruth(
            status=Status.REMOVED,
            availability=Believed.KNOWN,
            host_id=None,
            exit_status=None,
            exit_reason=None,
            facets={},
        )
    exit_status, exit_reason = vm.exit if vm.exit is not None else (run.exit_status, run.exit_reason)
    believed = host.reports and host.connected
    return VmTruth(
        status=run.status,
        availability=Believed.KNOWN if believed else Believed.UNKNOWN,
        host_id=uuid_text(host.host_id),
        exit_status=None if run.status in ALIVE else exit_status,
        exit_reason=None if run.status in ALIVE else exit_reason,
        facets=fingerprints(fleet.facets_of(vm.index, vm.owner)),
    )


def fingerprints(facets: Mapping[Facet, msgspec.Struct]) -> dict[str, str]:
    """Facet name -> normalised fingerprint in hex, as VmHead has it in bytes."""
    return {facet.value: fingerprint(value).hex() for facet, value in facets.items()}


def _reachability(reports: bool, farewell: bool, connected: bool) -> Reachability:
    if not reports:
        return Reachability.AGENT_STOPPED if farewell else Reachability.SILENT
    return Reachability.UP if connected else Reachability.DEGRADED


def write_truth(path: Path, content: TruthFile) -> None:
    """Write the file in one step: MessagePack if its name ends in `.msgpack`, else JSON. A reader sees old or new."""
    encoded = msgspec.msgpack.encode(content) if path.suffix == ".msgpack" else msgspec.json.encode(content)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(encoded)
    beside.replace(path)


def read_truth(path: Path) -> TruthFile | None:
    """The file's content; None while there is none."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    if path.suffix == ".msgpack":
        return msgspec.msgpack.decode(content, type=TruthFile)
    return msgspec.json.decode(content, type=TruthFile)
