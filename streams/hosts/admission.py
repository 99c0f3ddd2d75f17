"""Admission: which reports of which agent count (design §4.1, rule H3).

Epochs are ordered by their first appearance in the log. A report of an epoch that another replaced is dropped; two
that came too late to have been under way mean that two agents speak for one host, and so does another machine.
"""

from enum import Enum

import msgspec

from schemas.host_rows import Conflict, HostRow, Retired, SnapshotProgress
from schemas.ids import AgentEpoch
from schemas.observation import HostEvent
from schemas.report import HostReport
from streams.hosts.policy import HostsPolicy
from streams.hosts.turn import Turn

NO_EPOCH = AgentEpoch(b"")
"""Of a host that has not spoken yet."""


class Admission(Enum):
    """What a report is to the host's row."""

    NEXT = "next"
    AFTER_GAP = "after_gap"
    """Admitted; reports between the last one and this are missing."""
    NEW_EPOCH = "new_epoch"
    REPEAT = "repeat"
    STALE = "stale"
    """Of a retired epoch."""


def judge(row: HostRow, report: HostReport) -> Admission:
    """Compare with the epoch that speaks for the host now, then with those that did."""
    if report.agent_epoch == row.agent_epoch and report.boot_id == row.boot_id:
        if report.seq <= row.seq:
            return Admission.REPEAT
        return Admission.NEXT if report.seq == row.seq + 1 else Admission.AFTER_GAP
    if any(old.agent_epoch == report.agent_epoch and old.boot_id == report.boot_id for old in row.retired):
        return Admission.STALE
    return Admission.NEW_EPOCH


def begin_epoch(turn: Turn, report: HostReport, policy: HostsPolicy) -> None:
    """Let this report's agent speak for the host from now on; what it said before is unconfirmed."""
    row, at = turn.row, turn.moment.appended_at
    if row.agent_epoch:
        _retire(row, at, policy)
        if report.machine_id != row.machine_id:
            begin_conflict(turn, report)
        rebooted = report.boot_id != row.boot_id and row.conflict is None
        turn.say(HostEvent.NEW_BOOT if rebooted else HostEvent.NEW_EPOCH)
    row.machine_id, row.boot_id, row.agent_epoch = report.machine_id, report.boot_id, report.agent_epoch
    row.epoch_at = at
    row.seq = row.stale_reports = 0
    row.confirmed = row.grounded = False
    row.snapshot = None
    if row.resync is not None and not row.resync.force:
        row.resync = None
    turn.touched = True


def _retire(row: HostRow, at: int, policy: HostsPolicy) -> None:
    """Put the current epoch among the retired, and forget the oldest of those that can not come any more."""
    row.retired.append(Retired(row.boot_id, row.agent_epoch, at))
    while len(row.retired) > policy.retired_least and row.retired[0].at <= at - policy.retired_ns:
        del row.retired[0]
    if len(row.retired) > policy.retired_most:
        del row.retired[0]
        row.flapping = True


def settle_flapping(turn: Turn, policy: HostsPolicy) -> None:
    """Take the flag back when the epoch has been the same for as long as retired ones are kept."""
    if turn.row.flapping and turn.row.epoch_at <= turn.moment.appended_at - policy.retired_ns:
        turn.row.flapping = False
        turn.touched = True


def begin_conflict(turn: Turn, report: HostReport) -> None:
    """Two agents speak for this host: what follows from absence or a new boot proves nothing until one is alone."""
    row = turn.row
    speaker = Conflict(report.boot_id, report.agent_epoch, turn.moment.tick)
    if row.conflict is None:
        turn.say(HostEvent.CONFLICT)
    row.conflict = speaker
    row.confirmed = False


def hear_stale(turn: Turn, report: HostReport, policy: HostsPolicy) -> None:
    """Count a report of a retired epoch; the second late one of the same is a conflict."""
    row = turn.row
    if row.conflict is not None or turn.moment.appended_at <= row.epoch_at + policy.stale_ns:
        return
    same = row.stale_epoch == report.agent_epoch
    row.stale_reports = row.stale_reports + 1 if same else 1
    row.stale_epoch = report.agent_epoch
    if row.stale_reports >= policy.stale_reports:
        begin_conflict(turn, report)


def hear_in_conflict(turn: Turn, report: HostReport) -> None:
    """Note who spoke last, since when it is alone, and forget what another was asked."""
    row = turn.row
    if row.conflict is None:
        return
    if (row.conflict.boot_id, row.conflict.agent_epoch) != (report.boot_id, report.agent_epoch):
        row.conflict = Conflict(report.boot_id, report.agent_epoch, turn.moment.tick)


def is_alone(turn: Turn) -> bool:
    """True when, in a conflict, one agent spoke alone for a full grace."""
    conflict = turn.row.conflict
    return conflict is not None and turn.moment.tick - conflict.alone_since_tick >= turn.host.grace_ticks


def reinstate(turn: Turn, report: HostReport, policy: HostsPolicy) -> None:
    """The agent that is left is of a retired epoch: let it speak for the host again."""
    row = turn.row
    row.retired = [old for old in row.retired if old.agent_epoch != AgentEpoch(report.agent_epoch)]
    conflict = row.conflict
    begin_epoch(turn, report, policy)
    row.conflict = conflict


def is_answered(row: HostRow, ended: SnapshotProgress) -> bool:
    """True when this snapshot is what the agent that is alone was asked for."""
    return row.conflict is not None and row.conflict.asked and ended.whole and ended.answered


def expect_answer(row: HostRow) -> bool:
    """From now on an answer ends the conflict; False when that was so before."""
    if row.conflict is None or row.conflict.asked:
        return False
    row.conflict = msgspec.structs.replace(row.conflict, asked=True)
    return True


def end_conflict(turn: Turn) -> None:
    """The agent that is alone has answered."""
    turn.row.conflict = None
    turn.say(HostEvent.CONFLICT_ENDED)
