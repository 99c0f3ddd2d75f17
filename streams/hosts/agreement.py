"""Agreement: do the agent and we hold the same, and if not, when to ask for a snapshot (design §4.4).

Every report carries count and digest of all the agent has. A difference opens a *need*; it is asked under a token
bucket, again with back-off and jitter, until a snapshot has ended. Jitter comes from the evidence, so that a replay
asks the same.
"""

import msgspec
import xxhash

from schemas.fingerprints import U64
from schemas.host_rows import HostRow, Resync, SnapshotProgress
from schemas.ids import HostId, RequestId
from schemas.report import HostReport, SnapshotPart
from schemas.resync import Asker, ResyncRequest
from streams.hosts.policy import HostsPolicy
from streams.hosts.turn import Turn

_COUNT_FACTOR = 0x9E3779B97F4A7C15
"""Odd: spreads a difference of counts over the 64 bits, so that one number tells both."""


class TokenBucket:
    """Bounds the requests of a partition; filled by ticks."""

    __slots__ = ("_policy", "tokens")

    def __init__(self, policy: HostsPolicy, tokens: int) -> None:
        self._policy = policy
        self.tokens = tokens

    def tick(self) -> None:
        """One second more."""
        self.tokens = min(self.tokens + self._policy.tokens_per_tick, self._policy.bucket_tokens)

    def take(self) -> bool:
        """True when one more request may go."""
        if self.tokens <= 0:
            return False
        self.tokens -= 1
        return True


def difference(row: HostRow, report: HostReport) -> int:
    """0 when count and digest agree; equal differences give equal numbers."""
    if report.digest == row.digest and report.vm_count == row.vm_count:
        return 0
    spread = (report.vm_count - row.vm_count) * _COUNT_FACTOR
    return ((report.digest - row.digest) + spread) & U64 or 1


def advance(row: HostRow, part: SnapshotPart, tick: int) -> SnapshotProgress:
    """The snapshot under way after this part; parts out of order make it one that proves nothing by itself."""
    known = row.snapshot
    if part.part == 1:
        progress = SnapshotProgress(part.snapshot_id, part.parts, 1, tick)
    elif known is not None and (known.snapshot_id, known.parts, known.heard + 1) == (
        part.snapshot_id,
        part.parts,
        part.part,
    ):
        progress = msgspec.structs.replace(known, heard=part.part, tick=tick)
    else:
        progress = SnapshotProgress(part.snapshot_id, part.parts, part.part, tick, whole=False)
    if row.resync is not None and row.resync.request_id in part.answers:
        progress = msgspec.structs.replace(progress, answered=True)
    return progress


def end_snapshot(row: HostRow, ended: SnapshotProgress, *, forced: bool) -> None:
    """Close the need that this snapshot met: the one it names, or one for anything whole (with force, if asked so)."""
    row.snapshot = None
    row.grounded = row.grounded or ended.whole
    if row.resync is None:
        return
    serves = ended.whole and row.conflict is None and (forced or not row.resync.force)
    if ended.answered or serves:
        row.resync = None


def need(row: HostRow, reason: str, *, force: bool = False) -> None:
    """Open a need for a snapshot, unless one as strong is open."""
    if row.resync is None or (force and not row.resync.force):
        row.resync = Resync(force, reason)


def ask(turn: Turn, log: int, bucket: TokenBucket, policy: HostsPolicy) -> ResyncRequest | None:
    """The request to send now, if a need is open, its time has come and the bucket has a token."""
    row, tick, host_id = turn.row, turn.moment.tick, turn.host.host_id
    if row.resync is None or tick < row.ask_tick or not bucket.take():
        return None
    row.resync = msgspec.structs.replace(row.resync, request_id=_request_id(host_id, log, turn.moment.offset))
    row.asked += 1
    delay = min(policy.ask_first_ticks << min(row.asked - 1, 16), policy.ask_most_ticks)
    row.ask_tick = tick + delay + _jitter(host_id, tick, delay)
    return ResyncRequest(
        request_id=row.resync.request_id,
        host_id=host_id,
        force=row.resync.force,
        asker=Asker.HOSTS,
        reason=row.resync.reason,
    )


def start_over(turn: Turn, policy: HostsPolicy) -> None:
    """What follows is another matter: the next request need not wait for the back-off of this one."""
    row = turn.row
    row.asked = 0
    row.ask_tick = min(row.ask_tick, turn.moment.tick + policy.ask_first_ticks)


def settle(turn: Turn, policy: HostsPolicy) -> None:
    """Count and digest agree: nothing is open any more, but what asked for force."""
    row = turn.row
    start_over(turn, policy)
    row.failures = row.failed_difference = 0
    if row.resync is not None and not row.resync.force and row.grounded:
        row.resync = None
    if row.mismatched:
        row.mismatched = False
        turn.touched = True


def fail(turn: Turn, found: int, policy: HostsPolicy) -> None:
    """A whole snapshot left a difference; the third equal one says that asking does not help."""
    row = turn.row
    row.failures = row.failures + 1 if found == row.failed_difference else 1
    row.failed_difference = found
    if row.failures >= policy.equal_failures and not row.mismatched:
        row.mismatched = True
        turn.touched = True


def is_hopeless(row: HostRow, found: int) -> bool:
    """True for the difference that three snapshots did not remove."""
    return row.mismatched and found == row.failed_difference


def _request_id(host_id: HostId, log: int, offset: int) -> RequestId:
    return RequestId(xxhash.xxh3_128_digest(host_id + f"hosts:{log}:{offset}".encode("ascii")))


def _jitter(host_id: HostId, tick: int, delay: int) -> int:
    return xxhash.xxh3_64_intdigest(host_id + tick.to_bytes(8, "big")) % (delay // 4 + 1)
