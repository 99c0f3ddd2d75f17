"""The public view of hosts: a HostChange for every difference, HostState after it and once a minute.

Versions have no holes and every change names the digest of the state before and after it. A heartbeat that changes
nothing reaches neither topic.
"""

import msgspec
import xxhash

from schemas.change import Cause, Evidence, change_id
from schemas.fingerprints import low64
from schemas.host_change import HostChange, HostReachabilityState, HostState
from schemas.host_rows import HostRow, Silence
from schemas.ids import uuid_text
from schemas.observation import HostEvent
from schemas.rules import RULES_VERSION
from schemas.status import Reachability
from streams.hosts.state import Host, Shown, shown
from streams.hosts.turn import Turn

MICROSECOND_NS = 1_000

_HOST_EVENTS = frozenset(
    {HostEvent.SILENT, HostEvent.STOPPED, HostEvent.BACK, HostEvent.DEGRADED, HostEvent.RECOVERED, HostEvent.CONFIRMED}
)


def cause_of(turn: Turn, *, is_new: bool) -> Cause:
    """Why the host changed: of several reasons in one input the one that explains most."""
    events = {said.event for said in turn.events}
    if is_new:
        return Cause.CREATED if turn.moment.reported else Cause.REBUILT
    if HostEvent.CONFLICT in events:
        return Cause.CONFLICT
    if HostEvent.CONFLICT_ENDED in events:
        return Cause.CONFLICT_ENDED
    if HostEvent.UNCONFIRMED in events:
        return Cause.GAP
    if not turn.moment.reported:
        return Cause.TIMER
    return Cause.HOST if events & _HOST_EVENTS and not turn.host.facet_changes else Cause.REPORTED


def change_of(turn: Turn, *, partition: int, log: int, topic: str) -> HostChange | None:
    """The next version of the host if this turn made one, with the row moved to it; None when nothing differs."""
    host, row, moment = turn.host, turn.row, turn.moment
    now, facets = shown(row), host.facet_changes
    before = host.shown
    if now == before and not facets and not turn.lost:
        return None
    is_new = row.version == 0
    if is_new:
        row.incarnation = max(moment.appended_at, row.incarnation + 1)
    if before is None or now.reachability is not before.reachability:
        row.since = moment.appended_at
    row.version += 1
    row.detected_at = max(moment.appended_at, row.detected_at)
    cause = cause_of(turn, is_new=is_new)
    previous, row.state_digest = row.state_digest, _digest(row, now)
    host.shown, host.facet_changes = now, {}
    return HostChange(
        host_id=uuid_text(host.host_id),
        incarnation=row.incarnation,
        version=row.version,
        change_id=change_id(uuid_text(host.host_id), row.incarnation, row.version),
        observed_at=moment.observed_at // MICROSECOND_NS * MICROSECOND_NS,
        detected_at=row.detected_at,
        cause=cause,
        reachability=_reachability(row, now.reachability),
        confirmed=now.confirmed,
        flags=list(now.flags),
        machine_id=uuid_text(row.machine_id),
        boot_id=uuid_text(row.boot_id),
        agent_epoch=uuid_text(row.agent_epoch),
        facets=facets,
        previous_digest=previous,
        state_digest=row.state_digest,
        evidence=_evidence(turn, cause, partition=partition, log=log, topic=topic),
        rules_version=RULES_VERSION,
    )


def state_of(host: Host) -> HostState:
    """The host now."""
    row = host.row
    now = host.shown or shown(row)
    return HostState(
        host_id=uuid_text(host.host_id),
        incarnation=row.incarnation,
        version=row.version,
        reachability=_reachability(row, now.reachability),
        confirmed=now.confirmed,
        flags=list(now.flags),
        machine_id=uuid_text(row.machine_id),
        boot_id=uuid_text(row.boot_id),
        agent_epoch=uuid_text(row.agent_epoch),
        vm_count=row.vm_count,
        last_report_at=row.heard_at,
        detected_at=row.detected_at,
        state_digest=row.state_digest,
        facets={name: msgspec.Raw(facet.value) for name, facet in row.facets.items()},
    )


def _reachability(row: HostRow, state: Reachability) -> HostReachabilityState:
    return HostReachabilityState(
        state=state,
        reason=row.farewell if row.silence is Silence.STOPPED else None,
        since=row.since,
        mass=row.mass,
    )


def _evidence(turn: Turn, cause: Cause, *, partition: int, log: int, topic: str) -> Evidence:
    """A report's evidence names its writer, a tick's its number, a gap's nobody."""
    host, row, moment = turn.host, turn.row, turn.moment
    return Evidence(
        topic=topic,
        log=log,
        partition=partition,
        offset=moment.offset,
        host=uuid_text(host.host_id) if moment.reported else None,
        boot=uuid_text(row.boot_id) if moment.reported else None,
        seq=moment.seq if moment.reported else None,
        tick=moment.seq if cause is Cause.TIMER else None,
    )


def _digest(row: HostRow, now: Shown) -> int:
    """Digest of the host's whole state; `mass` and times of looking take no part."""
    canonical = [
        row.incarnation,
        row.version,
        now.reachability.value,
        now.confirmed,
        now.flags,
        now.machine_id,
        now.boot_id,
        now.agent_epoch,
        [[name, row.facets[name].normal] for name in sorted(row.facets)],
    ]
    return low64(xxhash.xxh3_128_digest(msgspec.msgpack.encode(canonical)))
