"""Proof that agent and stage hold the same: after every report, and what is asked if not (design §4.4, H2)."""

import msgspec

from schemas.host_rows import SnapshotProgress
from schemas.observation import HostEvent
from schemas.report import Farewell, HostReport
from streams.hosts import admission, agreement
from streams.hosts.agreement import TokenBucket
from streams.hosts.counting import Tally
from streams.hosts.emit import Outbound
from streams.hosts.policy import HostsPolicy
from streams.hosts.turn import Turn


class Proof:
    """Compares, and asks under the partition's token bucket."""

    __slots__ = ("_bucket", "_log", "_out", "_policy", "_tally")

    def __init__(self, log: int, bucket: TokenBucket, policy: HostsPolicy, out: Outbound, tally: Tally) -> None:
        self._log, self._bucket, self._policy = log, bucket, policy
        self._out, self._tally = out, tally

    def miss_reports(self, turn: Turn) -> None:
        """Reports between the last one and this are missing."""
        row = turn.row
        self._tally.count("sequence_gaps")
        if row.snapshot is not None:
            row.snapshot = msgspec.structs.replace(row.snapshot, whole=False)
        agreement.need(row, "sequence_gap")
        self.ask(turn)

    def agree(self, turn: Turn, report: HostReport, ended: SnapshotProgress | None) -> bool:
        """Compare count and digest, ask where they differ; True when what the host said is proved."""
        row = turn.row
        if row.snapshot is not None and turn.moment.tick > row.snapshot.tick + self._policy.snapshot_ticks:
            row.snapshot = None
        if isinstance(report.body, Farewell) or (row.snapshot is not None and row.snapshot.whole):
            return False
        if row.snapshot is not None or row.conflict is not None:
            self._ask_in_conflict(turn)
            self.ask(turn)
            return False
        found = agreement.difference(row, report)
        if found == 0:
            agreement.settle(turn, self._policy)
        else:
            self._disagree(turn, found, after_snapshot=ended is not None and ended.whole)
        if not row.grounded:
            agreement.need(row, "unproved")
        self.ask(turn)
        return row.grounded if found == 0 else ended is not None and ended.whole

    def _disagree(self, turn: Turn, found: int, *, after_snapshot: bool) -> None:
        self._tally.count("digest_mismatches")
        if after_snapshot:
            agreement.fail(turn, found, self._policy)
        if not agreement.is_hopeless(turn.row, found):
            agreement.need(turn.row, "digest")

    def _ask_in_conflict(self, turn: Turn) -> None:
        """The agent that is alone must answer a request of its own before the conflict ends."""
        row = turn.row
        if not admission.is_alone(turn):
            return
        if admission.expect_answer(row):
            force = row.resync is not None and row.resync.force
            row.resync, row.asked, row.ask_tick = None, 0, 0
            agreement.need(row, "host_conflict", force=force)
        else:
            agreement.need(row, "host_conflict")

    def ask(self, turn: Turn) -> None:
        """Send the request that is due, if one is and may go."""
        request = agreement.ask(turn, self._log, self._bucket, self._policy)
        if request is not None:
            self._out.request(turn.host.key, request)
            self._tally.count("resyncs", request.reason)


def confirm(turn: Turn) -> None:
    """Rule H2; not while its source is away, since an agent then agrees with what it saw last.

    The end of a whole forced snapshot is told once more: whoever asked for it may have lost evidence of its own.
    """
    row = turn.row
    if row.degraded or row.conflict is not None or row.disconnected_tick is not None:
        return
    if row.confirmed and not (turn.force and turn.answers):
        return
    row.confirmed = True
    turn.say(HostEvent.CONFIRMED)
