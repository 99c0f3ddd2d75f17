"""What hearing of a host means, whatever it says: it is there, and its clock shows (rules H1, H2, H4, H5)."""

from schemas.host_rows import HostRow, Silence
from schemas.observation import HostEvent
from schemas.report import Farewell, HostReport
from streams.hosts.policy import HostsPolicy
from streams.hosts.turn import Moment, Turn

FAREWELL_CHARS = 255


def come_back(turn: Turn) -> None:
    """The first report after silence, or the first ever."""
    row = turn.row
    if row.silence is Silence.HEARD and row.version:
        return
    row.silence, row.mass = Silence.HEARD, False
    row.confirmed = False
    turn.say(HostEvent.BACK)


def fall_silent(turn: Turn, *, mass: bool) -> None:
    """The grace is over; a farewell only changes the reason."""
    row = turn.row
    stopped = row.farewell is not None
    row.silence = Silence.STOPPED if stopped else Silence.SILENT
    row.silent_tick = turn.moment.tick
    row.mass = mass
    row.confirmed = False
    turn.say(HostEvent.STOPPED if stopped else HostEvent.SILENT, mass=mass)


def degrade(turn: Turn) -> None:
    """The agent is there, its source was away for too long; only a complete snapshot makes it believable again."""
    row = turn.row
    row.degraded = True
    row.confirmed = row.grounded = False
    turn.say(HostEvent.DEGRADED)


def note_report(turn: Turn, report: HostReport, policy: HostsPolicy) -> None:
    """Remember when and what was heard last."""
    row, moment = turn.row, turn.moment
    row.seq = report.seq
    row.heard_offset, row.heard_at, row.heard_tick = moment.offset, moment.appended_at, moment.tick
    row.observed_at = report.observed_at
    if isinstance(report.body, Farewell):
        row.farewell = report.body.reason[:FAREWELL_CHARS]
    elif row.farewell is not None:
        row.farewell = None
    skewed = is_skewed(report, moment, policy)
    if skewed or row.skewed_reports:
        _note_skew(turn, row, policy, skewed=skewed)


def is_skewed(report: HostReport, moment: Moment, policy: HostsPolicy) -> bool:
    """Does the agent's clock differ from the broker's? The time a report waited in the agent is taken out."""
    waited = report.sent_monotonic_ns - report.observed_monotonic_ns
    return abs(moment.appended_at - report.observed_at - waited) > policy.skew_ns


def _note_skew(turn: Turn, row: HostRow, policy: HostsPolicy, *, skewed: bool) -> None:
    row.skewed_reports = min(row.skewed_reports + 1, policy.skew_reports) if skewed else 0
    flagged = row.skewed_reports >= policy.skew_reports
    if flagged is not row.skewed:
        row.skewed = flagged
        turn.touched = True
