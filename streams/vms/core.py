"""The rules of the vms stage, in the order in which they are applied. Pure: state + input -> state + effects.

    input record (one batch of one hosts partition; or a copy of an intent)
      does it join the last one of its partition      -> if not, what was lost is asked for again
      each report, in log order                       -> one turn: at most one change per VM
        1. each VM       admission A1-A5, then by who speaks:
             nobody knows the VM      births    A6          removed row   births   A7
             its owner                owner     S1-S3, S5, S7, S10, O2, O4, O7
             another host             rivals    the table of rules §5, O1-O6
             gone from the list       hosts     S2, O2, O9
        2. inventory     what is not in it is gone
        3. host events   silence, back, confirmed, new boot: H1-H6, S3
        4. sums          what the hosts stage let through against what is held: repairs
      the clock reading
        5. partitions left out, or caught up          -> unread; late claims judged once (O6)
        6. timers that ran out, one turn each         -> losses judged, holds, grace, powering_up (S5, S10)

Who owns a VM, and whether it may be called down, is decided in `succession` alone.
"""

from collections.abc import Callable, Collection
from typing import Final

from schemas.change import Cause
from schemas.codec import NewerMajorError, RecordError, decode
from schemas.ids import VmId
from schemas.intent import INTENT_KEY
from schemas.observation import ObservationBatch, ReportObservations, VmObservation
from schemas.rules import RULES_VERSION
from schemas.vm_state import Timer
from streams.runtime.stage import Batch, Counts, Demand, Fits, Input, Marks
from streams.vms import timers
from streams.vms.admission import News, admit, has_news, is_repeat, sent_facets
from streams.vms.births import birth, on_removed
from streams.vms.emit import publish
from streams.vms.gaps import distrust, forget_chains, hear_chain
from streams.vms.hosts import leave, mind_boot, on_event, show_doubts, take_inventory
from streams.vms.intents import take_intent
from streams.vms.letters import reject_record
from streams.vms.losses import judge_loss
from streams.vms.owner import guest_is_up, on_owner
from streams.vms.poison import concerns_suspects, isolate, isolate_intent
from streams.vms.reasserting import reassert
from streams.vms.removal import forget, remove_when_due
from streams.vms.repairs import ask_due, take_answers
from streams.vms.rivals import end_grace, judge, judge_all, on_rival
from streams.vms.rows import GENERATION_BITS, seal
from streams.vms.state import Claim, Host, Partition, Vm
from streams.vms.sums import compare
from streams.vms.turn import Proof, Turn, proof_of_report, proof_of_tick

ID_BYTES: Final = 16
_SEEN_BITS: Final = 16
"""Reports in one input record; a record of the largest size holds fewer."""


def _time_is_up(turn: Turn, vm: Vm) -> None:
    """Nothing was heard from the guest (S5, S10)."""
    guest_is_up(turn, vm)
    turn.because(vm, Cause.TIMER)


TIMERS: Final[dict[str, Callable[[Turn, Vm], None]]] = {
    timers.POWERING_UP: _time_is_up,
    timers.REBOOTING: _time_is_up,
    timers.JUDGE: judge_loss,
    timers.HOLD: judge_loss,
    timers.GRACE: end_grace,
    timers.SETTLE: judge_all,
    timers.REMOVE: remove_when_due,
    timers.FORGET: forget,
}


class VmsCore:
    """One partition of the stage (`streams.runtime.stage.PartitionCore`)."""

    def __init__(self, state: Partition) -> None:
        self.state = state
        self.make_turn: Callable[[Partition, int, int, Proof], Turn] = Turn
        """Something else while an input is isolated."""
        self._unsealed = False

    @property
    def applied(self) -> int:
        """Offset of the last applied input, -1 before the first."""
        return self.state.applied

    @applied.setter
    def applied(self, offset: int) -> None:
        self.state.applied = offset

    @property
    def next_intent(self) -> int:
        """See IntentCore."""
        return self.state.intents.next_offset

    def apply(self, record: Input) -> Demand:
        """Apply one batch of observations."""
        if record.key == INTENT_KEY:
            return self.take_intent(record)
        batch = self._read(record)
        if self.state.suspects and batch is not None and concerns_suspects(self.state, batch):
            return isolate(self, record, batch)
        return self.take(record, batch)

    def isolate(self, record: Input, condemned: Collection[bytes], fits: Fits, before: Marks) -> Demand:
        """See PartitionCore."""
        if record.key == INTENT_KEY:
            return isolate_intent(self, record, condemned)
        batch = self._read(record)
        if batch is None:
            return self.take(record, batch)
        return isolate(self, record, batch, condemned=condemned, fits=fits, before=before)

    def reassert(self, key: bytes) -> None:
        """See PartitionCore."""
        reassert(self.state, key)

    def skip(self, record: Input) -> None:
        """This input is dealt with; nothing of it was applied."""
        self.state.applied = record.offset
        self._unsealed = True

    def take(self, record: Input, batch: ObservationBatch | None) -> Demand:
        """Apply what was read of this input; None when nobody could read it."""
        state = self.state
        before = len(state.outputs) + len(state.dirty_heads) + len(state.dirty_facets)
        if batch is not None:
            if hear_chain(state, batch):
                self._miss_observations(record, batch)
            for index, report in enumerate(batch.reports):
                self._report(record, batch, index, report)
            self._hear_clock(record, batch)
        state.applied = record.offset
        self._unsealed = True
        after = len(state.outputs) + len(state.dirty_heads) + len(state.dirty_facets)
        return Demand(records=after - before + 1, urgent=after > before)

    def gap(self, first_missing: int, next_offset: int) -> None:
        """What is missing may have said anything: every host is asked to say everything again."""
        state = self.state
        state.applied = next_offset - 1
        self._unsealed = True
        state.count("offset_gaps", amount=next_offset - first_missing)
        turn = self.turn(next_offset - 1, 0, Proof(state.number, 0, -1, state.clock.newest_at, state.clock.newest_at))
        forget_chains(state)
        distrust(turn, state.hosts.values(), "gap")

    def _miss_observations(self, record: Input, batch: ObservationBatch) -> None:
        """Batches of this source between the last one heard and this are missing."""
        state = self.state
        state.count("observation_gaps")
        turn = self.turn(record.offset, 0, Proof(batch.source, batch.log, -1, batch.tick_at, batch.tick_at))
        distrust(turn, [host for host in state.hosts.values() if host.source == batch.source], "lost_observations")

    def take_intent(self, record: Input) -> Demand:
        """Apply the copy of an intent."""
        state = self.state
        before = len(state.outputs) + len(state.dirty_heads) + len(state.dirty_facets)
        take_intent(state, record)
        self.skip(record)
        after = len(state.outputs) + len(state.dirty_heads) + len(state.dirty_facets)
        return Demand(records=after - before + 1, urgent=after > before)

    def seal(self) -> Batch:
        """Everything since the last seal."""
        if not self._unsealed:
            return Batch([], [])
        self._unsealed = False
        return seal(self.state)

    def touch(self) -> None:
        """The state was changed by no input (`taking_in`): the next seal writes it."""
        self._unsealed = True

    @property
    def newer_until(self) -> int:
        """Inputs below this offset are taken although they follow newer rules."""
        return self.state.newer_until

    @newer_until.setter
    def newer_until(self, offset: int) -> None:
        self.state.newer_until = offset

    def drain_counts(self) -> list[Counts]:
        """Counts since the last call."""
        counts, self.state.counts = self.state.counts, type(self.state.counts)()
        return [Counts(metric, labels, amount) for (metric, labels), amount in counts.items()]

    def _read(self, record: Input) -> ObservationBatch | None:
        """The batch, or None when nobody can read it: then it is in dead.letters. Raises NewerMajorError."""
        try:
            batch = decode(ObservationBatch, record.value, record.schema)
            _check(batch, self.state.partitions)
        except NewerMajorError:
            raise
        except RecordError as problem:
            reject_record(self.state, record, str(problem))
            return None
        if batch.rules_version > RULES_VERSION and record.offset >= self.state.newer_until:
            raise NewerMajorError(
                f"vm.observations[{record.partition}]@{record.offset} follows rules {batch.rules_version}, "
                f"this program knows {RULES_VERSION}"
            )
        return batch

    def turn(self, offset: int, index: int, proof: Proof) -> Turn:
        state = self.state
        at = (state.generation << GENERATION_BITS) + offset
        return self.make_turn(state, at, (at + 1 << _SEEN_BITS) + index, proof)

    def _report(self, record: Input, batch: ObservationBatch, index: int, report: ReportObservations) -> None:
        proof = proof_of_report(batch, report)
        turn = self.turn(record.offset, index, proof)
        turn.force = report.force
        host = self.state.host(report.host_id, batch.source, report.boot_id)
        if proof.position < host.heard:
            self.state.count("repeats_records")
            return
        self._note_lateness(turn, host)
        for observation in report.vms:
            observe(turn, host, report, observation)
        if proof.position > host.position and (report.inventory is not None or report.host):
            _speak_of_host(turn, host, report)
        else:
            mind_boot(turn, host)
        if report.answers:
            take_answers(self.state, host, report.answers)
        if report.facet_sum is not None:
            compare(turn, host, report.facet_sum)
        if turn.opened:
            host.heard = proof.position
            self.state.dirty_hosts[host.id] = None
        publish(turn)

    def _note_lateness(self, turn: Turn, host: Host) -> None:
        if turn.state.clock.is_late(turn.proof.appended_at):
            turn.state.set_late(host, late=True)
        if host.source != turn.proof.source:
            host.source = turn.proof.source
            turn.state.dirty_hosts[host.id] = None

    def _hear_clock(self, record: Input, batch: ObservationBatch) -> None:
        state = self.state
        moved = state.clock.hear(batch.source, batch.log, batch.tick, batch.tick_at)
        proof = proof_of_tick(batch)
        if moved.left_out or moved.caught_up:
            self._show_unread(self.turn(record.offset, 0, proof), moved.left_out, batch.source, moved.caught_up)
        if state.late_hosts and state.clock.caught_up(batch.source):
            self._judge_late(self.turn(record.offset, 0, proof), batch.source)
        if moved.risen:
            for vm_id, timer in state.timers.due(state.clock.ticks, state.clock.time):
                self._run_out(self.turn(record.offset, 0, proof), vm_id, timer)
        if state.repairs:
            ask_due(state)

    def _show_unread(self, turn: Turn, left_out: tuple[int, ...], source: int, caught_up: bool) -> None:
        touched = {*left_out, source} if caught_up else set(left_out)
        for host_id in sorted(self.state.hosts):
            host = self.state.hosts[host_id]
            if host.source in touched:
                show_doubts(turn, host)
        publish(turn)

    def _judge_late(self, turn: Turn, source: int) -> None:
        """Hosts of this partition are heard in time again: their claims are judged once (O6)."""
        state = self.state
        for host_id in sorted(state.late_hosts):
            host = state.hosts[host_id]
            if host.source != source:
                continue
            state.set_late(host, late=False)
            for vm in list(state.claimed(host)):
                claim = vm.claim_of(host_id)
                if claim is not None and vm.owner != host_id and not turn.repeats(vm):
                    turn.open(vm)
                    judge(turn, vm, claim)
        publish(turn)

    def _run_out(self, turn: Turn, vm_id: VmId, timer: Timer) -> None:
        vm = self.state.vms.get(vm_id)
        if vm is None or timer not in vm.timers or turn.repeats(vm):
            return
        turn.open(vm)
        self.state.disarm(vm, timer.kind)
        TIMERS[timer.kind](turn, vm)
        publish(turn)


def observe(turn: Turn, host: Host, report: ReportObservations, observation: VmObservation) -> None:
    """One host's statement about one VM: admission, then the rules for who speaks, then its leaving."""
    state = turn.state
    vm = state.vms.get(observation.vm_id)
    if vm is None:
        if turn.at > state.floor:
            born = birth(turn, observation.vm_id, host, observation)
            if born is not None and observation.gone is not None:
                leave(turn, *born, host, observation.gone)
        return
    claim = vm.claim_of(host.id)
    if turn.repeats(vm) or is_repeat(turn, claim):
        state.count("repeats_records")
        return
    sent = sent_facets(turn, claim, observation)
    first_claim = claim is None
    if claim is None:
        if not sent:
            return
        claim = Claim(host.id, host.boot if host.boot == report.boot_id else report.boot_id)
    elif not has_news(claim, report, observation, sent):
        return
    turn.open(vm)
    if first_claim:
        state.add_claim(vm, claim)
    if sent or observation.gone is None:
        news = admit(turn, vm, claim, host, observation, sent)
        if news.changed:
            _hear(turn, vm, claim, host, news, first_claim=first_claim)
    if observation.gone is not None:
        leave(turn, vm, claim, host, observation.gone)


def _hear(turn: Turn, vm: Vm, claim: Claim, host: Host, news: News, *, first_claim: bool) -> None:
    """By who speaks."""
    if vm.owner is None:
        on_removed(turn, vm, claim, host, first_claim=first_claim)
    elif vm.owner == host.id:
        on_owner(turn, vm, claim, host, news)
    else:
        on_rival(turn, vm, claim, news)


def _check(batch: ObservationBatch, partitions: int) -> None:
    """What the types do not say; raises RecordError."""
    if not 0 <= batch.source < partitions:
        raise RecordError(f"ObservationBatch: source {batch.source} is no partition of {partitions}")
    for report in batch.reports:
        ids = [report.host_id, report.boot_id, *[vm.vm_id for vm in report.vms], *(report.inventory or ())]
        if set(map(len, ids)) != {ID_BYTES}:
            raise RecordError(f"ObservationBatch: offset {report.offset}: an id has {ID_BYTES} bytes")


def _speak_of_host(turn: Turn, host: Host, report: ReportObservations) -> None:
    """Inventory, then host events; both only above the host's position."""
    if report.inventory is not None:
        take_inventory(turn, host, report)
    mind_boot(turn, host)
    for observation in report.host:
        on_event(turn, host, observation.event)
    host.position = turn.proof.position
    turn.state.dirty_hosts[host.id] = None
