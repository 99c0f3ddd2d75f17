"""One hand-made value of every record, with every optional part filled; the golden files are made of these."""

import msgspec

from schemas.change import Availability, Cause, Evidence, Exit, FacetChange
from schemas.codec import Record
from schemas.facets.run import Run
from schemas.host_change import HostChange, HostReachabilityState, HostState
from schemas.ids import AgentEpoch, BootId, HostId, MachineId, RequestId, SnapshotId, VmId
from schemas.intent import Intent, IntentCopy, Operation, signed
from schemas.observation import (
    FacetSum,
    HostEvent,
    HostObservation,
    ObservationBatch,
    ReportObservations,
    VmObservation,
)
from schemas.report import Changes, Farewell, Gone, HostReport, SnapshotPart, VmFacets
from schemas.resync import Asker, ResyncRequest
from schemas.status import Believed, Doubt, ExitReason, ExitStatus, GoneReason, PauseReason, Reachability, Status
from schemas.tick import Tick, sign_tick
from schemas.vm_change import VmChange
from schemas.vm_state import Claim, FacetMark, Position, Timer, VmFacet, VmHead

VM = VmId(bytes(range(16)))
HOST = HostId(bytes(range(16, 32)))
BOOT = BootId(bytes(range(32, 48)))
MACHINE = MachineId(bytes(range(48, 64)))
EPOCH = AgentEpoch(bytes(range(64, 80)))
VM_TEXT = "00010203-0405-0607-0809-0a0b0c0d0e0f"
HOST_TEXT = "10111213-1415-1617-1819-1a1b1c1d1e1f"
BOOT_TEXT = "20212223-2425-2627-2829-2a2b2c2d2e2f"
MACHINE_TEXT = "30313233-3435-3637-3839-3a3b3c3d3e3f"
EPOCH_TEXT = "40414243-4445-4647-4849-4a4b4c4d4e4f"
AT = 1_800_000_000_000_000_000
RUN = msgspec.msgpack.encode(Run(status=Status.PAUSED, process_id="7-1", pause_reason=PauseReason.USER))
FINGERPRINT = bytes(range(80, 96))


def report(body: Changes | SnapshotPart | Farewell) -> HostReport:
    """An envelope around a body."""
    return HostReport(
        host_id=HOST,
        machine_id=MACHINE,
        boot_id=BOOT,
        agent_epoch=EPOCH,
        seq=3,
        observed_at=AT,
        observed_monotonic_ns=5_000,
        sent_at=AT + 1_000,
        sent_monotonic_ns=6_000,
        vm_count=1,
        digest=2**63 + 5,
        body=body,
    )


EVIDENCE = Evidence(topic="host.reports", log=0, partition=2, offset=77, host=HOST_TEXT, boot=BOOT_TEXT, seq=3)
AVAILABILITY = Availability(
    state=Believed.UNKNOWN,
    reason=Doubt.JUDGING,
    reasons=[Doubt.JUDGING, Doubt.HOST_SILENT],
    since=AT,
)
EXIT = Exit(status=ExitStatus.ERROR, reason=ExitReason.QEMU_DIED, message="killed by signal 9")
FACETS = {"run": FacetChange(before={"status": "up"}, after=msgspec.Raw(RUN), changed=["pause_reason", "status"])}
REACHABLE = HostReachabilityState(state=Reachability.SILENT, reason="nothing heard", since=AT, mass=True)

INTENT = Intent(
    vm_id=VM_TEXT,
    intent_id="change-4711",
    op=Operation.EDIT,
    by="operator@example",
    deadline_at=AT + 1_000_000_000,
    fields={"notes": "kept"},
)

SAMPLES: dict[str, Record] = {
    "HostReport.changes": report(
        Changes(
            vms=[VmFacets(vm_id=VM, facets={"run": RUN})],
            gone=[Gone(vm_id=VM, reason=GoneReason.UNDEFINED)],
            host={"host_system": b"\x80"},
            storage={"pool-a": b"\x80"},
            storage_gone=["pool-b"],
        )
    ),
    "HostReport.heartbeat": report(Changes()),
    "HostReport.snapshot": report(
        SnapshotPart(
            snapshot_id=SnapshotId(bytes(16)),
            part=2,
            parts=2,
            vms=[VmFacets(vm_id=VM, facets={"run": RUN})],
            answers=[RequestId(bytes(range(96, 112)))],
            force=True,
            inventory=[VM],
        )
    ),
    "HostReport.farewell": report(Farewell(reason="stopped by its supervisor")),
    "Tick": Tick(
        n=9, owner=bytes(16), rules_version=1, mac=sign_tick(b"k" * 32, "00000000-0000-0000-0000-000000000001", 2, 9)
    ),
    "ObservationBatch": ObservationBatch(
        source=2,
        log=0,
        tick=9,
        tick_at=AT,
        rules_version=1,
        reports=[
            ReportObservations(
                offset=77,
                appended_at=AT,
                observed_at=AT - 5,
                host_id=HOST,
                boot_id=BOOT,
                agent_epoch=EPOCH,
                seq=3,
                vms=[VmObservation(vm_id=VM, facets={"run": RUN}), VmObservation(vm_id=VM, gone=GoneReason.ABSENT)],
                inventory=[VM],
                host=[HostObservation(event=HostEvent.SILENT, mass=True)],
                force=True,
                answers=[RequestId(bytes(range(96, 112)))],
            ),
            ReportObservations(
                offset=78,
                appended_at=AT,
                observed_at=AT,
                host_id=HOST,
                boot_id=BOOT,
                agent_epoch=EPOCH,
                seq=9,
                facet_sum=FacetSum(vms=1, digest=2**64 - 1),
            ),
        ],
        since=70,
        until=78,
    ),
    "Intent": INTENT,
    "IntentCopy": signed(
        b"k" * 32,
        "00000000-0000-0000-0000-000000000001",
        2,
        IntentCopy(
            offset=5,
            previous=3,
            appended_at=AT,
            key=VM_TEXT.encode(),
            schema=b"Intent/1.0",
            value=msgspec.msgpack.encode(INTENT),
            mac=b"",
        ),
    ),
    "ResyncRequest": ResyncRequest(
        request_id=RequestId(bytes(range(96, 112))), host_id=HOST, force=True, asker=Asker.VMS, reason="rejected facet"
    ),
    "VmChange": VmChange(
        vm_id=VM_TEXT,
        incarnation=AT,
        version=4,
        change_id=f"{VM_TEXT}:{AT}:4",
        observed_at=AT - 5_000,
        detected_at=AT,
        cause=Cause.REPORTED,
        status=Status.PAUSED,
        availability=AVAILABILITY,
        host_id=HOST_TEXT,
        ownership_epoch=2,
        run_id=EPOCH_TEXT,
        exit=EXIT,
        facets=FACETS,
        managed={"notes": "kept"},
        previous_digest=1,
        state_digest=2**64 - 1,
        intent_id="change-4711",
        evidence=EVIDENCE,
        rules_version=1,
    ),
    "VmHead": VmHead(
        vm_id=VM_TEXT,
        incarnation=AT,
        version=4,
        status=Status.PAUSED,
        availability=AVAILABILITY,
        host_id=HOST_TEXT,
        ownership_epoch=2,
        run_id=EPOCH_TEXT,
        exit=EXIT,
        observed_at=AT - 5_000,
        detected_at=AT,
        digest=2**64 - 1,
        applied=12,
        claims=[
            Claim(
                host_id=HOST_TEXT,
                position=Position(log=0, offset=77),
                appended_at=AT,
                boot_id=BOOT_TEXT,
                status=Status.PAUSED,
                pause_reason=PauseReason.USER,
                process_id="7-1",
                facets={"run": FacetMark(raw=5, normal=FINGERPRINT)},
            )
        ],
        facets={"run": FINGERPRINT},
        managed={"notes": "kept"},
        timers=[Timer(kind="powering_up", due_tick=69)],
        quarantined=True,
    ),
    "VmFacet": VmFacet(incarnation=AT, version=4, applied=12, fingerprint=FINGERPRINT, value=RUN),
    "HostChange": HostChange(
        host_id=HOST_TEXT,
        incarnation=AT,
        version=2,
        change_id=f"{HOST_TEXT}:{AT}:2",
        observed_at=AT - 5_000,
        detected_at=AT,
        cause=Cause.HOST,
        reachability=REACHABLE,
        confirmed=False,
        flags=["clock_skewed"],
        machine_id=MACHINE_TEXT,
        boot_id=BOOT_TEXT,
        agent_epoch=EPOCH_TEXT,
        facets={"host_system": FacetChange(before=None, after=msgspec.Raw(b"\x80"), changed=["hostname"])},
        previous_digest=1,
        state_digest=2,
        evidence=EVIDENCE,
        rules_version=1,
    ),
    "HostState": HostState(
        host_id=HOST_TEXT,
        incarnation=AT,
        version=2,
        reachability=REACHABLE,
        confirmed=False,
        flags=[],
        machine_id=MACHINE_TEXT,
        boot_id=BOOT_TEXT,
        agent_epoch=EPOCH_TEXT,
        vm_count=300,
        last_report_at=AT,
        detected_at=AT,
        state_digest=2,
        facets={"host_system": msgspec.Raw(b"\x80")},
    ),
}
