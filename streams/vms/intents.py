"""What operators want, as copied from vm.intents into this log by the worker that owns the partition.

Exactly once in effect: a copy counts only behind the last one that counted, so copies made twice are repeats and one
behind a copy that was lost is refused until that one came. `republish` is the only operation so far; others are put
aside, counted and said to be unsupported.
"""

from typing import Final

from schemas.codec import NewerMajorError, RecordError, decode, guard
from schemas.dead_letter import dead_letter_headers, letter_value
from schemas.ids import VmId, key_of, partition_of, uuid_bytes
from schemas.intent import INTENT_LIMIT_BYTES, Intent, IntentCopy, Operation, is_signed, oversize_of
from streams.runtime.stage import Input, Output
from streams.vms.letters import DEAD_LETTERS, STAGE, VM_OBSERVATIONS
from streams.vms.state import Partition, Vm

VM_INTENTS: Final = "vm.intents"
_COPY_LIMIT_BYTES: Final = INTENT_LIMIT_BYTES + 4 * 1024


def take_intent(state: Partition, record: Input) -> None:
    """Apply one copy. Raises NewerMajorError for a copy of another major."""
    log = state.intents
    try:
        guard(record.value, _COPY_LIMIT_BYTES)
        copy = decode(IntentCopy, record.value, record.schema)
    except NewerMajorError:
        raise
    except RecordError as problem:
        _refuse_copy(state, record, "malformed_record", str(problem))
        return
    if not log.secret or not is_signed(log.secret, log.topic_id, state.number, copy):
        _refuse_copy(state, record, "forged_intent", "the signature is not that of a worker for this place")
    elif copy.offset < log.next_offset:
        state.count("intents_records", "repeat")
    elif copy.previous >= log.next_offset:
        state.count("intents_records", "out_of_order")
    else:
        log.next_offset = copy.offset + 1
        _take(state, copy)


def _take(state: Partition, copy: IntentCopy) -> None:
    try:
        oversize = oversize_of(copy)
        if oversize is not None:
            raise RecordError(oversize)
        guard(copy.value, INTENT_LIMIT_BYTES)
        intent = decode(Intent, copy.value, copy.schema)
        vm_id = _vm_of(state, copy, intent)
    except RecordError as problem:
        _refuse_intent(state, copy, "malformed_intent", str(problem))
        return
    if intent.op is not Operation.REPUBLISH:
        _refuse_intent(state, copy, "unsupported_intent", f"operation {intent.op} is not supported yet")
        return
    vm = state.vms.get(vm_id)
    if vm is None:
        state.count("intents_records", "unknown_vm")
        return
    republish(state, vm)
    state.count("intents_records", "republished")


def republish(state: Partition, vm: Vm) -> None:
    """Write head and facets again as they are: readers who have this version drop it, those who lack it take it."""
    state.dirty_heads[vm.id] = None
    for claim in vm.claims:
        for slot, packed in enumerate(claim.facets):
            if packed is not None:
                state.dirty_facets[(vm.id, claim.host, slot)] = None


def _vm_of(state: Partition, copy: IntentCopy, intent: Intent) -> VmId:
    """The VM it is about; raises RecordError when that is no id, or the record lies where nobody would look for it."""
    try:
        vm_id = VmId(uuid_bytes(intent.vm_id))
    except ValueError as problem:
        raise RecordError(f"vm_id: {problem}") from problem
    key = key_of(vm_id)
    if copy.key != key:
        raise RecordError(f"the key is {copy.key!r:.80}, the intent is about VM {key.decode()}")
    home = partition_of(key, state.partitions)
    if home != state.number:
        raise RecordError(f"VM {key.decode()} belongs to partition {home}: the writer must partition by murmur2")
    return vm_id


def _refuse_copy(state: Partition, record: Input, reason: str, error: str) -> None:
    _put_aside(state, VM_OBSERVATIONS, record.offset, record.key, record.value, record.schema, reason, error)
    state.count("intents_records", "forged" if reason == "forged_intent" else "malformed")


def _refuse_intent(state: Partition, copy: IntentCopy, reason: str, error: str) -> None:
    _put_aside(state, VM_INTENTS, copy.offset, copy.key, copy.value, copy.schema, reason, error)
    state.count("intents_records", "unsupported" if reason == "unsupported_intent" else "malformed")


def _put_aside(
    state: Partition,
    topic: str,
    offset: int,
    key: bytes | None,
    value: bytes,
    schema: bytes | None,
    reason: str,
    error: str,
) -> None:
    kept, size = letter_value(value)
    headers = dead_letter_headers(
        topic=topic,
        partition=state.number,
        offset=offset,
        stage=STAGE,
        reason=reason,
        error=error,
        schema=schema,
        size=size,
    )
    state.outputs.append(Output(DEAD_LETTERS, state.number, key, kept, tuple(headers)))
    state.count("dead_letters_records", reason)
