"""Repair: whatever was lost on the way here, the host is asked to say everything again (design §4 "Repair paths").

Evidence can be lost below the log's start (a gap), between two batches of a source (the chain is broken), facet by
facet (rejected, or a row is gone), or without a trace (the hourly sums differ). Each opens one need per host; requests
go under a token bucket, again with back-off, until a whole forced snapshot has answered one.
"""

import heapq
from typing import Final

import xxhash

from schemas.codec import SCHEMA_HEADER, encode, header_of
from schemas.ids import HostId, RequestId, key_of, partition_of
from schemas.resync import Asker, ResyncRequest
from schemas.status import Reachability
from streams.runtime.stage import Output
from streams.vms.policy import ASK_MOST_TICKS
from streams.vms.requests import Repair
from streams.vms.state import Host, Partition
from streams.vms.turn import Turn

RESYNC_REQUESTS: Final = "resync.requests"
_REQUEST_HEADERS: Final = ((SCHEMA_HEADER, header_of(ResyncRequest)),)
_UNHEARD: Final = (Reachability.SILENT, Reachability.AGENT_STOPPED)


def want(state: Partition, host: Host, reason: str, *, wait_ticks: int = 0, spread_ticks: int = 0) -> None:
    """Open a need, unless one is open, and ask at once, or after `wait_ticks`, if a request may go.

    `spread_ticks`: where all hosts need the same, each is asked at its own moment within so many ticks, which is the
    same in every partition, so that the agent answers all of them by one snapshot.
    """
    if host.repair is not None:
        return
    evidence = f"{state.number}:{state.generation}:{state.applied}:{reason}".encode()
    wait = wait_ticks + (xxhash.xxh3_64_intdigest(host.id) % spread_ticks if spread_ticks else 0)
    host.repair = Repair(reason, xxhash.xxh3_128_digest(host.id + evidence), state.clock.pulse + wait)
    state.dirty_hosts[host.id] = None
    heapq.heappush(state.repairs, (host.repair.due, host.id))
    ask_due(state)


def ask_due(state: Partition) -> None:
    """Send the requests whose time has come, as far as there are tokens. Cheap while nothing is due."""
    pulse, queue = state.clock.pulse, state.repairs
    while queue and queue[0][0] <= pulse:
        due, host_id = queue[0]
        host = state.hosts[host_id]
        repair = host.repair
        if repair is None or repair.due != due:
            heapq.heappop(queue)
        elif host.reachability in _UNHEARD:
            # Nobody would answer; its need stays open for when it is back.
            heapq.heapreplace(queue, _again(state, host, repair, pulse + ASK_MOST_TICKS))
        elif state.bucket.take(pulse):
            _send(state, host_id, repair)
            heapq.heapreplace(queue, _again(state, host, repair.asked_again(host_id, pulse)))
        else:
            return


def _again(state: Partition, host: Host, repair: Repair, due: int | None = None) -> tuple[int, HostId]:
    if due is not None:
        repair = Repair(repair.reason, repair.seed, due, repair.asked)
    host.repair = repair
    state.dirty_hosts[host.id] = None
    return repair.due, host.id


def _send(state: Partition, host_id: HostId, repair: Repair) -> None:
    request = ResyncRequest(
        request_id=repair.request_id(repair.asked),
        host_id=host_id,
        force=True,
        asker=Asker.VMS,
        reason=repair.reason,
    )
    key = key_of(host_id)
    partition = partition_of(key, state.partitions)
    state.outputs.append(Output(RESYNC_REQUESTS, partition, key, encode(request), _REQUEST_HEADERS))
    state.count("resyncs", repair.reason)


def ask(state: Partition, host_id: HostId, reason: str, *, wait_ticks: int = 0, spread_ticks: int = 0) -> None:
    """Open a need of a host, if it ever said anything here: else nothing of it was lost either."""
    host = state.hosts.get(host_id)
    if host is not None:
        want(state, host, reason, wait_ticks=wait_ticks, spread_ticks=spread_ticks)


def heard_again(state: Partition, host: Host) -> None:
    """A host that was not heard is back: what it was not asked meanwhile is due."""
    repair = host.repair
    if repair is not None and repair.due > state.clock.pulse:
        heapq.heappush(state.repairs, _again(state, host, repair, state.clock.pulse))


def take_answers(state: Partition, host: Host, answers: list[RequestId]) -> None:
    """A whole snapshot ended and names what it answers."""
    if host.repair is not None and host.repair.is_answered(answers):
        drop_need(state, host)


def drop_need(state: Partition, host: Host) -> None:
    """Stop asking."""
    host.repair = None
    state.dirty_hosts[host.id] = None


def ask_once(turn: Turn, host: Host, reason: str) -> None:
    """Ask this host for a forced snapshot, unless it was asked since its agent started (rule A5)."""
    if host.repair_asked:
        return
    host.repair_asked = True
    turn.state.dirty_hosts[host.id] = None
    want(turn.state, host, reason)
