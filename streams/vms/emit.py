"""The end of a turn: VMs that look different than before get their next version and a public change (design §3.5)."""

from typing import Final

from schemas.change import Cause, Evidence, change_id
from schemas.codec import SCHEMA_HEADER, encode, header_of
from schemas.ids import uuid_text
from schemas.vm_change import VmChange, state_digest
from streams.runtime.stage import Output
from streams.vms.availability import availability_of, doubts_of
from streams.vms.facets import differences, fingerprints
from streams.vms.policy import RULES_VERSION
from streams.vms.state import Partition, Vm
from streams.vms.texts import text_of
from streams.vms.turn import UNBORN, Proof, Turn, View, view_of

VM_CHANGES: Final = "vm.changes"
HOST_REPORTS: Final = "host.reports"
_CHANGE_HEADERS: Final = ((SCHEMA_HEADER, header_of(VmChange)),)
_MICROSECOND_NS: Final = 1_000


def publish(turn: Turn) -> None:
    """Compare every opened VM with how it was published, and publish those that differ; in the order of opening."""
    state = turn.state
    evidence = None
    for vm_id, before in turn.opened.items():
        vm = state.vms.get(vm_id)
        if vm is None:
            continue
        vm.shown, earlier = doubts_of(state, vm), vm.shown
        if vm.shown != earlier or before is UNBORN:
            vm.since = turn.proof.appended_at
        after = view_of(vm)
        if after != before:
            if evidence is None:
                evidence = _evidence(turn.proof, state)
            _publish(turn, vm, before, after, evidence)


def _publish(turn: Turn, vm: Vm, before: View, after: View, evidence: Evidence) -> None:
    proof, state = turn.proof, turn.state
    facets = after.facets
    changed = differences(before.facets, facets)
    if not changed and before is not UNBORN and after[:-1] == before[:-1]:
        return  # facets differ in `Noted` fields only: nobody needs to hear of it
    vm.version += 1
    vm.observed_at = proof.observed_at - proof.observed_at % _MICROSECOND_NS
    vm.detected_at = max(proof.appended_at, vm.detected_at)
    availability = availability_of(vm)
    prints = state.fingerprints[vm.id] = fingerprints(facets)
    text = text_of(vm.id)
    host = _host_text(state, vm)
    run_id = None if vm.run_id is None else text_of(vm.run_id)
    previous, vm.digest = (
        vm.digest,
        state_digest(
            incarnation=vm.incarnation,
            version=vm.version,
            status=vm.status,
            availability=availability,
            host_id=host,
            ownership_epoch=vm.epoch,
            run_id=run_id,
            exit_=vm.exit,
            facets=prints,
            managed=vm.managed or {},
        ),
    )
    cause = turn.causes.get(vm.id, Cause.REPORTED)
    change = VmChange(
        vm_id=text,
        incarnation=vm.incarnation,
        version=vm.version,
        change_id=change_id(text, vm.incarnation, vm.version),
        observed_at=vm.observed_at,
        detected_at=vm.detected_at,
        cause=cause,
        status=vm.status,
        availability=availability,
        host_id=host,
        ownership_epoch=vm.epoch,
        run_id=run_id,
        exit=vm.exit,
        facets=changed,
        previous_digest=previous,
        state_digest=vm.digest,
        evidence=evidence,
        rules_version=RULES_VERSION,
    )
    state.outputs.append(Output(VM_CHANGES, state.number, text.encode(), encode(change), _CHANGE_HEADERS))
    state.count("changes", cause)


def _host_text(state: Partition, vm: Vm) -> str | None:
    if vm.owner is None:
        return None
    host = state.hosts.get(vm.owner)
    return uuid_text(vm.owner) if host is None else host.text


def _evidence(proof: Proof, state: Partition) -> Evidence:
    host = None if proof.host is None else state.hosts.get(proof.host)
    return Evidence(
        topic=HOST_REPORTS,
        log=proof.log,
        partition=proof.source,
        offset=proof.offset,
        host=None if host is None else host.text,
        boot=None if proof.boot is None else uuid_text(proof.boot),
        seq=proof.seq,
        tick=proof.tick,
    )
