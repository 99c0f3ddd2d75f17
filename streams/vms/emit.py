"""The end of a turn: VMs that look different than before get their next version and a public change (design §3.5)."""

from typing import Any, Final

from schemas.change import Cause, Evidence, change_id
from schemas.codec import SCHEMA_HEADER, encode, header_of
from schemas.ids import uuid_text
from schemas.rules import RULES_VERSION
from schemas.vm_change import VmChange, digest_of
from streams.runtime.stage import Output
from streams.vms.availability import doubts_of, shown_availability
from streams.vms.facets import differences, prints_of
from streams.vms.state import Partition, Vm
from streams.vms.texts import text_of
from streams.vms.turn import UNBORN, Proof, Turn, View, view_of
from streams.vms.twins import WORD, twin_of

VM_CHANGES: Final = "vm.changes"
HOST_REPORTS: Final = "host.reports"
_CHANGE_HEADERS: Final = ((SCHEMA_HEADER, header_of(VmChange)),)
_MICROSECOND_NS: Final = 1_000
_Change: Final = twin_of(VmChange)
_Evidence: Final = twin_of(Evidence)


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


def _publish(turn: Turn, vm: Vm, before: View, after: View, evidence: Any) -> None:
    proof, state = turn.proof, turn.state
    changed = differences(before.facets, after.facets, turn.readings)
    if not changed and before is not UNBORN and after.frame == before.frame:
        return  # facets differ in `Noted` fields only: nobody needs to hear of it
    vm.version += 1
    vm.observed_at = proof.observed_at - proof.observed_at % _MICROSECOND_NS
    vm.detected_at = max(proof.appended_at, vm.detected_at)
    change = _Change()
    change.vm_id = text = text_of(vm.id)
    change.incarnation = vm.incarnation
    change.version = vm.version
    change.change_id = change_id(text, vm.incarnation, vm.version)
    change.observed_at = vm.observed_at
    change.detected_at = vm.detected_at
    cause = turn.causes.get(vm.id, Cause.REPORTED)
    change.cause = WORD[cause]
    change.status = WORD[vm.status]
    change.availability = shown_availability(vm)
    change.host_id = _host_text(state, vm)
    change.ownership_epoch = vm.epoch
    change.run_id = None if vm.run_id is None else text_of(vm.run_id)
    change.exit = vm.exit
    change.facets = changed
    change.managed = None
    change.previous_digest = vm.digest
    change.state_digest = vm.digest = _digest(state, vm, change, after)
    change.intent_id = None
    change.evidence = evidence
    change.rules_version = RULES_VERSION
    state.outputs.append(Output(VM_CHANGES, state.number, text.encode(), encode(change), _CHANGE_HEADERS))
    state.count("changes", cause)


def _digest(state: Partition, vm: Vm, change: Any, after: View) -> int:
    """As `schemas.vm_change.state_digest`, of what is encoded already."""
    prints = state.fingerprints[vm.id] = prints_of(after.facets)
    exit_, managed = vm.exit, vm.managed
    return digest_of(
        [
            change.incarnation,
            change.version,
            change.status,
            [change.availability.state, change.availability.reasons],
            change.host_id,
            change.ownership_epoch,
            change.run_id,
            None if exit_ is None else [exit_.status, exit_.reason, exit_.message],
            prints.by_name,
            [[name, managed[name]] for name in sorted(managed)] if managed else [],
        ]
    )


def _host_text(state: Partition, vm: Vm) -> str | None:
    if vm.owner is None:
        return None
    host = state.hosts.get(vm.owner)
    return uuid_text(vm.owner) if host is None else host.text


def _evidence(proof: Proof, state: Partition) -> Any:
    host = None if proof.host is None else state.hosts.get(proof.host)
    evidence = _Evidence()
    evidence.topic = HOST_REPORTS
    evidence.log = proof.log
    evidence.partition = proof.source
    evidence.offset = proof.offset
    evidence.host = None if host is None else host.text
    evidence.boot = None if proof.boot is None else text_of(proof.boot)
    evidence.seq = proof.seq
    evidence.tick = proof.tick
    return evidence
