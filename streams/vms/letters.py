"""What is sent besides changes: dead letters, and requests to a host to say everything again."""

from typing import Final

import xxhash

from schemas.codec import SCHEMA_HEADER, encode, header_of
from schemas.dead_letter import dead_letter_headers
from schemas.ids import HostId, RequestId, key_of, partition_of
from schemas.resync import Asker, ResyncRequest
from streams.runtime.stage import Input, Output
from streams.vms.facets import FACETS
from streams.vms.state import Host, Partition, Vm
from streams.vms.turn import Turn

STAGE: Final = "vms"
DEAD_LETTERS: Final = "dead.letters"
RESYNC_REQUESTS: Final = "resync.requests"
VM_OBSERVATIONS: Final = "vm.observations"
_REQUEST_HEADERS: Final = ((SCHEMA_HEADER, header_of(ResyncRequest)),)


def reject_record(state: Partition, record: Input, error: str) -> None:
    """The whole input is unreadable: keep it where somebody can look at it, and go on."""
    headers = dead_letter_headers(
        topic=VM_OBSERVATIONS,
        partition=record.partition,
        offset=record.offset,
        stage=STAGE,
        reason="malformed_record",
        error=error,
        schema=record.schema,
    )
    state.outputs.append(Output(DEAD_LETTERS, state.number, record.key, record.value, tuple(headers)))
    state.count("dead_letters_records", "malformed_record")


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
    )
    state.outputs.append(Output(DEAD_LETTERS, state.number, key_of(vm.id), data, tuple(headers)))
    state.count("dead_letters_records", "malformed_facet")
    state.count("rejected_facets", FACETS[slot].value)
    ask_once(turn, host, "rejected_facet")


def ask_once(turn: Turn, host: Host, reason: str) -> None:
    """Ask this host for a forced snapshot, unless it was asked since its agent started."""
    if host.repair_asked:
        return
    host.repair_asked = True
    turn.state.dirty_hosts[host.id] = None
    proof = turn.proof
    ask(turn.state, host.id, reason, f"{proof.source}:{proof.log}:{proof.offset}:{proof.tick}")


def ask(state: Partition, host_id: HostId, reason: str, evidence: str) -> None:
    """A request whose id follows from its evidence: a replay asks the same again, and the agent merges it."""
    request_id = xxhash.xxh3_128_digest(b"%b:%b:%b" % (host_id, evidence.encode(), reason.encode()))
    request = ResyncRequest(
        request_id=RequestId(request_id), host_id=host_id, force=True, asker=Asker.VMS, reason=reason
    )
    key = key_of(host_id)
    partition = partition_of(key, state.partitions)
    state.outputs.append(Output(RESYNC_REQUESTS, partition, key, encode(request), _REQUEST_HEADERS))
    state.count("resyncs", reason)
