"""Dead letters: what nobody can read is put aside with its place and the reason."""

from typing import Final

from schemas.dead_letter import dead_letter_headers, letter_value
from schemas.ids import HostId, VmId, key_of, uuid_text
from streams.runtime.stage import Input, Output
from streams.vms.facets import FACETS
from streams.vms.repairs import ask_once
from streams.vms.state import Host, Partition, Vm
from streams.vms.turn import Turn

STAGE: Final = "vms"
DEAD_LETTERS: Final = "dead.letters"
VM_OBSERVATIONS: Final = "vm.observations"
_ATTEMPTS: Final[dict[str, int | None]] = {"poison": 2, "too_large": 2, "crash": None}
"""Whole, then with care."""


def reject_record(state: Partition, record: Input, error: str) -> None:
    """The whole input is unreadable: keep it where somebody can look at it, and go on."""
    put_aside(state, record, record.value, reason="malformed_record", error=error)


def put_aside(
    state: Partition,
    record: Input,
    part: bytes,
    *,
    reason: str,
    error: str,
    vm_id: VmId | None = None,
    host_id: HostId | None = None,
) -> None:
    """Make a dead letter of an input, or of the part of it that is about one VM."""
    value, size = letter_value(part)
    headers = dead_letter_headers(
        topic=VM_OBSERVATIONS,
        partition=record.partition,
        offset=record.offset,
        stage=STAGE,
        reason=reason,
        error=error,
        schema=record.schema,
        appended_at=record.appended_at,
        attempts=_ATTEMPTS.get(reason, 1),
        host=None if host_id is None else uuid_text(host_id),
        vm=None if vm_id is None else uuid_text(vm_id),
        size=size,
    )
    key = record.key if vm_id is None else key_of(vm_id)
    state.outputs.append(Output(DEAD_LETTERS, state.number, key, value, tuple(headers)))
    state.count("dead_letters_records", reason)


def reject_facet(turn: Turn, vm: Vm, host: Host, slot: int, data: bytes, error: str) -> None:
    """One facet of one VM is unreadable (A5): the rest of the report counts."""
    state = turn.state
    headers = dead_letter_headers(
        topic="host.reports",
        partition=turn.proof.source,
        offset=turn.proof.offset,
        stage=STAGE,
        reason="malformed_facet",
        error=f"host {host.text}: {error}",
        schema=None,
        appended_at=turn.proof.appended_at,
        host=host.text,
        vm=uuid_text(vm.id),
    )
    state.outputs.append(Output(DEAD_LETTERS, state.number, key_of(vm.id), data, tuple(headers)))
    state.count("dead_letters_records", "malformed_facet")
    state.count("rejected_facets", FACETS[slot].value)
    ask_once(turn, host, "rejected_facet")
