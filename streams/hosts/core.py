"""The rules of the hosts stage, in the order in which a report meets them (design §4).

admission -> heard -> gate and gone -> agreement -> confirmed -> emit. A tick: does it count -> who is due -> emit.
Nothing here reads a clock: time is the log's.

Everything that decides is in the rows, so the same inputs applied to the same rows give the same outputs, byte for
byte: a crash repeats statements, it never changes or loses one.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from schemas.codec import NewerMajorError, RecordError
from schemas.host_rows import HostRow, PartitionRow, SnapshotProgress
from schemas.ids import HostId, uuid_text
from schemas.observation import HostEvent
from schemas.report import Changes, HostReport, SnapshotPart
from schemas.rules import RULES_VERSION
from schemas.tick import TICK_KEY
from streams.hosts import admission, agreement, hearing, publish, rows
from streams.hosts.admission import Admission
from streams.hosts.body import BodyReader
from streams.hosts.counting import Tally
from streams.hosts.emit import HostsTopics, Outbound
from streams.hosts.gate import Refused
from streams.hosts.poison import apply_with_care, isolate
from streams.hosts.policy import HostsPolicy
from streams.hosts.proof import Proof, confirm
from streams.hosts.silence import SilenceWatch
from streams.hosts.state import Host, shown
from streams.hosts.sums import SumCalendar, can_be_summed, sums_of
from streams.hosts.ticks import Refusal, Ticks, read_tick
from streams.hosts.trust import check_key, read_report
from streams.hosts.turn import Moment, Turn, starts_snapshot
from streams.runtime.stage import Batch, Counts, Demand, Fits, Input, Marks, Row


@dataclass(frozen=True, kw_only=True, slots=True)
class HostsConfig:
    """What every partition's core is told."""

    topics: HostsTopics
    partitions: int
    """Of host.reports and of vm.observations alike."""
    tick_secret: bytes
    reports_topic_id: str
    """Covered by the signature of a tick."""
    state_topic_id: str = ""
    """Of host.state; when it is another than the hosts were last written to, all are written again."""
    log: int = 1
    """Generation of the host.reports topic where the table does not say it."""
    another_log: frozenset[int] = frozenset()
    """Partitions of host.reports to be taken for another log than their table's, whatever the topic's id."""
    newer_rules: bool = False
    """Also take a table that newer rules wrote."""
    policy: HostsPolicy = field(default_factory=HostsPolicy)


class HostsCore:
    """One partition of the hosts stage; a `streams.runtime.stage.TickedCore`."""

    def __init__(
        self, config: HostsConfig, partition: int, hosts: dict[HostId, Host], row: PartitionRow | None
    ) -> None:
        policy = config.policy
        self._config, self._policy = config, policy
        self._partition = partition
        self.hosts = hosts
        """By id; nobody but the core changes them."""
        self._dirty: dict[HostId, Host] = {}
        self._ticks = Ticks(row)
        self._bucket = agreement.TokenBucket(policy, policy.bucket_tokens if row is None else row.resync_tokens)
        self._watch = SilenceWatch(policy)
        self._bodies = BodyReader(config.partitions)
        self._calendar = SumCalendar(policy.sum_ticks, hosts)
        self._out = Outbound(config.topics, partition=partition, partitions=config.partitions, log=config.log)
        self._tally = Tally()
        self._proof = Proof(config.log, self._bucket, policy, self._out, self._tally)
        self._unsealed = False
        self.suspects: set[bytes | None] = set()
        """Keys of records of which one could not be applied."""
        self.table_topic = config.topics.table
        self.applied = -1 if row is None else row.applied
        self.expected_tick = self._ticks.n + 1
        for host in hosts.values():
            host.shown = shown(host.row)
            self._watch.watch(host, self._ticks.restart_tick)
        self.table_start = 0 if row is None else row.table_start
        """Where the table's log may begin."""
        if row is not None and row.log < config.log:
            self.applied = -1
            self.newer_until = 0
            self.gap(0, 0)
        if row is not None and row.state_topic_id not in ("", config.state_topic_id):
            self._show_again()

    def apply(self, record: Input) -> Demand:
        """See PartitionCore. Raises NewerMajorError with the record's position; the state is then as before."""
        if self.suspects and record.key in self.suspects:
            return apply_with_care(self, record)
        return self.take(record)

    def isolate(self, record: Input, condemned: Collection[bytes], fits: Fits, before: Marks) -> Demand:
        """See PartitionCore."""
        return isolate(self, record, condemned, fits, before)

    def reassert(self, key: bytes) -> None:
        """See PartitionCore."""
        try:
            host_id, vm_id = rows.ids_of(key)
        except ValueError:
            return
        host = self.hosts.get(host_id)
        if host is not None:
            self._dirty[host_id] = host
            if vm_id is not None:
                host.dirty_vms[vm_id] = host.row.applied

    def skip(self, record: Input) -> None:
        """This input is dealt with; nothing of it was applied."""
        self.applied = record.offset
        self._unsealed = True

    def put_aside(self, record: Input, reason: str, error: str) -> None:
        """Make a dead letter of the input."""
        self._reject(record, reason, error)

    def take(self, record: Input) -> Demand:
        """Apply an input that is not suspected of anything."""
        before = self._out.count
        self._out.urgent = False
        try:
            touched = self._apply_tick(record) if record.key == TICK_KEY else self._apply_report(record)
        except NewerMajorError as newer:
            where = f"{self._config.topics.reports}[{record.partition}]@{record.offset}"
            raise NewerMajorError(f"{where}: {newer}; upgrade this worker") from newer
        self.applied = record.offset
        self._unsealed = True
        return Demand(self._out.count - before + touched, self._out.urgent)

    def gap(self, first_missing: int, next_offset: int) -> None:
        """See PartitionCore: no host is confirmed any more, each is asked for a whole snapshot with force."""
        offset = next_offset - 1
        for host in self.hosts.values():
            self.distrust(host, offset, "gap")
        self.applied = max(self.applied, offset)
        self._unsealed = True

    def distrust(self, host: Host, offset: int, reason: str) -> None:
        """Something of this host was lost: it is not confirmed any more, and asked for a whole snapshot with force."""
        at = self._ticks.at
        turn = Turn(host, Moment(offset, at, at, self._ticks.n, self._ticks.n, reported=False))
        host.row.confirmed = host.row.grounded = False
        host.row.snapshot = None
        turn.lost = True
        turn.say(HostEvent.UNCONFIRMED)
        agreement.need(host.row, reason, force=True)
        self._proof.ask(turn)
        self._close(turn)

    def take_in(self, host: Host, at: int) -> None:
        """Take in a host that is known from elsewhere, when the table was lost: silent, its VMs in doubt, and asked.

        Its row has the last incarnation known and version 0; `at` (ns) is when the rebuild was begun.
        """
        self.hosts[host.host_id] = host
        self._calendar.add(host.host_id)
        turn = Turn(host, Moment(self.applied, at, at, self._ticks.n, self._ticks.n, reported=False))
        turn.say(HostEvent.REBUILDING)
        agreement.need(host.row, "rebuilding", force=True)
        self._proof.ask(turn)
        self._close(turn)
        self._unsealed = True

    @property
    def newer_until(self) -> int:
        """Inputs below this offset are taken although they follow newer rules."""
        return self._ticks.newer_until

    @newer_until.setter
    def newer_until(self, offset: int) -> None:
        self._ticks.newer_until = offset

    def touch(self) -> None:
        """The state was changed by no input: the next seal writes it."""
        self._unsealed = True

    def _show_again(self) -> None:
        """host.state was created again: say of every host how it is."""
        for host in self.hosts.values():
            self._out.produce(self._config.topics.state, host.key, publish.state_of(host))
        self._unsealed = True

    def seal(self) -> Batch:
        """See PartitionCore."""
        if not self._unsealed:
            return Batch([], [])
        batch = self.draft()
        self._unsealed = False
        for host in self._dirty.values():
            host.dirty_vms = {}
        self._dirty = {}
        return batch

    def draft(self) -> Batch:
        """What a seal would give. Takes the outputs, but marks no row as written; for callers that put all back."""
        ticks = self._ticks
        outputs = self._out.seal(ticks.n, ticks.at, self._policy.forward_ticks, self.applied)
        return Batch(outputs, rows.rows_of(self._dirty.values(), self._partition_row()))

    @property
    def log(self) -> int:
        """Generation of host.reports."""
        return self._config.log

    def table_rows(self) -> list[Row]:
        """Every row that the table has now, for a dump; nothing unsealed may be waiting."""
        for host in self.hosts.values():
            host.dirty_vms = dict.fromkeys(host.vms, host.row.applied)
        found = rows.rows_of(self.hosts.values(), self._partition_row())
        for host in self.hosts.values():
            host.dirty_vms = {}
        return found

    def _partition_row(self) -> PartitionRow:
        ticks = self._ticks
        return PartitionRow(
            applied=self.applied,
            log=self._config.log,
            tick=ticks.n,
            tick_at=ticks.at,
            tick_owner=ticks.owner,
            restart_tick=ticks.restart_tick,
            resync_tokens=self._bucket.tokens,
            rules_version=RULES_VERSION,
            topic_id=self._config.reports_topic_id,
            state_topic_id=self._config.state_topic_id,
            table_start=self.table_start,
            newer_until=self.newer_until,
        )

    def drain_counts(self) -> list[Counts]:
        """See PartitionCore."""
        if self._bodies.equal_facets:
            self._tally.count("equal_facets", amount=self._bodies.equal_facets)
            self._bodies.equal_facets = 0
        return self._tally.drain()

    def _apply_tick(self, record: Input) -> int:
        ticks = self._ticks
        tick = read_tick(record)
        refusal: Refusal | None = Refusal.MALFORMED
        if tick is not None:
            secret, topic_id = self._config.tick_secret, self._config.reports_topic_id
            refusal = ticks.refusal(tick, record, self._policy, secret, topic_id)
        if tick is None or refusal is not None:
            self._tally.count("ticks_refused", str(refusal))
            return 0
        ticks.advance(tick, record.appended_at, self._policy)
        self.expected_tick = ticks.n + 1
        self._bucket.tick()
        self._tally.count("ticks_counted")
        due = self._watch.due(ticks.n, ticks.restart_tick)
        if due:
            self._fall(due, record)
        for host_id in self._calendar.due(ticks.n):
            self._sum(self.hosts[host_id], record)
        return len(due)

    def _sum(self, host: Host, record: Input) -> None:
        """Say what the vms stage should hold of this host; changes nothing, so no row is written."""
        if can_be_summed(host.row):
            n = self._ticks.n
            turn = Turn(host, Moment(record.offset, record.appended_at, record.appended_at, n, n, reported=False))
            turn.sums = sums_of(host, self._config.partitions)
            self._out.tell_sums(turn)

    def _fall(self, due: list[Host], record: Input) -> None:
        """Say of each due host that it is silent, or degraded. Who is silent is decided for all before it is said."""
        n, restart = self._ticks.n, self._ticks.restart_tick
        silent = {host.host_id for host in due if self._watch.silent_tick(host, restart) <= n}
        mass = bool(silent) and self._watch.is_mass(self.hosts.values(), n, restart)
        moment = Moment(record.offset, record.appended_at, record.appended_at, n, n, reported=False)
        for host in due:
            turn = Turn(host, moment)
            if host.host_id in silent:
                hearing.fall_silent(turn, mass=mass)
            else:
                hearing.degrade(turn)
            self._watch.watch(host, restart)
            self._close(turn)

    def _apply_report(self, record: Input) -> int:
        try:
            report = read_report(record)
            host = self._host_of(record, report)
        except NewerMajorError as newer:
            # An agent's word may not end the stage: a newer one is upgraded after the stages, or it is forged.
            self._reject(record, "newer_major", str(newer))
            return 0
        except RecordError as problem:
            self._reject(record, "malformed", str(problem))
            return 0
        rows_before = len(host.dirty_vms)
        moment = Moment(record.offset, record.appended_at, report.observed_at, report.seq, self._ticks.n, reported=True)
        turn = Turn(host, moment)
        if self._admit(turn, report):
            hearing.note_report(turn, report, self._policy)
            ended = self._take_body(turn, report, record)
            self._watch.watch(host, self._ticks.restart_tick)
            if self._proof.agree(turn, report, ended):
                confirm(turn)
            self._close(turn)
        return 1 + len(host.dirty_vms) - rows_before

    def _host_of(self, record: Input, report: HostReport) -> Host:
        """The host that speaks, known or new; raises RecordError when another speaks in its name (fault M7)."""
        host = self.hosts.get(report.host_id)
        if host is not None and record.key == host.key:
            if report.agent_epoch == host.row.agent_epoch and report.machine_id != host.row.machine_id:
                raise RecordError("machine_id: another than before in the same agent epoch")
            return host
        check_key(record, report, self._config.partitions)
        row = HostRow(
            applied=record.offset,
            machine_id=report.machine_id,
            boot_id=report.boot_id,
            agent_epoch=admission.NO_EPOCH,
            epoch_at=record.appended_at,
        )
        self.hosts[report.host_id] = host = Host(report.host_id, row)
        self._calendar.add(report.host_id)
        return host

    def _admit(self, turn: Turn, report: HostReport) -> bool:
        """Does this report count? Opens what its epoch or a missing report asks for."""
        verdict = admission.judge(turn.row, report)
        if verdict is Admission.REPEAT:
            self._tally.count("repeats_records")
            return False
        admission.hear_in_conflict(turn, report)
        if verdict is Admission.STALE and not admission.is_alone(turn):
            admission.hear_stale(turn, report, self._policy)
            self._tally.drop("retired_epoch")
            self._close(turn)
            return False
        hearing.come_back(turn)
        if verdict is Admission.STALE:
            admission.reinstate(turn, report, self._policy)
        elif verdict is Admission.NEW_EPOCH:
            admission.begin_epoch(turn, report, self._policy)
            agreement.start_over(turn, self._policy)
        elif verdict is Admission.AFTER_GAP:
            self._proof.miss_reports(turn)
        if verdict is not Admission.AFTER_GAP and turn.row.seq == 0 and not starts_snapshot(report):
            agreement.need(turn.row, "new_epoch")
        if turn.row.flapping:
            admission.settle_flapping(turn, self._policy)
        return True

    def _take_body(self, turn: Turn, report: HostReport, record: Input) -> SnapshotProgress | None:
        body, ended = report.body, None
        if isinstance(body, Changes):
            refused = self._bodies.take_changes(turn, body)
        elif isinstance(body, SnapshotPart):
            ended, refused = self._bodies.take_part(turn, body)
        else:
            return None
        for facet in refused:
            self._reject_facet(record, facet)
        return ended

    def _close(self, turn: Turn) -> None:
        """Emit what the turn says, publish what it changed, and mark the host's row for the next seal."""
        host, row, topics = turn.host, turn.row, self._config.topics
        row.applied = turn.moment.offset
        self._dirty[host.host_id] = host
        if turn.vms or turn.events or turn.inventory is not None:
            self._out.observe(turn)
        change = None
        if turn.touched or host.facet_changes:
            change = publish.change_of(turn, partition=self._partition, log=self._config.log, topic=topics.reports)
        if change is not None:
            self._out.produce(topics.changes, host.key, change)
            self._tally.count("changes", change.cause.value)
        elif turn.moment.tick < row.shown_tick + self._policy.shown_ticks:
            return
        row.shown_tick = turn.moment.tick
        self._out.produce(topics.state, host.key, publish.state_of(host), urgent=change is not None)

    def _reject(self, record: Input, reason: str, error: str) -> None:
        self._out.dead_letter(record, record.value, reason, error, record.schema)
        self._tally.count("dead_letters_records", reason)

    def _reject_facet(self, record: Input, refused: Refused) -> None:
        owner = "host" if refused.vm_id is None else f"VM {uuid_text(refused.vm_id)}"
        self._out.dead_letter(record, refused.data, refused.reason, f"{owner}: facet {refused.facet[:100]!r}", None)
        self._tally.count("dead_letters_records", refused.reason)
