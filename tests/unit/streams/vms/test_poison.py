"""A rule that raises for one VM: that VM is in quarantine, and for all others it is as if nobody had spoken of it."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from schemas.codec import decode, encode, header_of
from schemas.facets.console import Console
from schemas.ids import AgentEpoch, VmId, uuid_text
from schemas.intent import INTENT_KEY, IntentCopy
from schemas.observation import ObservationBatch, ReportObservations, VmObservation
from schemas.status import Doubt, GoneReason, Status
from schemas.vm_state import VmHead
from streams.runtime.sender import DeliveryFailed
from streams.runtime.stage import Input, Output
from streams.vms import core as rules
from streams.vms import timers
from streams.vms.births import birth
from streams.vms.poison import rows_of
from streams.vms.policy import ASK_MOST_TICKS
from streams.vms.rows import heads_of
from tests.unit.streams.vms.scene import TOPIC_IDS, VM, Scene, changes_in, facets_of, run

BAD = VmId(bytes([0xBA] * 16))
GOOD = VmId(bytes([0x60] * 16))
EPOCH = AgentEpoch(b"e" * 16)
POISON = Console(client_ip="10.0.0.66")
"""What the broken rule of these tests can not take."""


class BrokenRule(RuntimeError):
    """What the rule raises."""


def broken_hear(turn: Any, vm: Any, claim: Any, host: Any, news: Any, *, first_claim: bool) -> None:
    """The real rule, then an error half way, when the VM's console says so."""
    original(turn, vm, claim, host, news, first_claim=first_claim)
    if any(facet is not None and b"10.0.0.66" in facet for facet in claim.facets):
        raise BrokenRule("no rule for this")


original = rules._hear


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Two VMs up on one host, and a rule that raises for a certain console."""
    monkeypatch.setattr(rules, "_hear", broken_hear)
    made = Scene()
    made.host("S")
    for vm in (GOOD, BAD):
        made.tell("S", run("up"), vm=vm)
    return made


def batch_of(scene: Scene, *told: VmObservation, force: bool = False, events: Sequence[str] = ()) -> Input:
    """The next input: one report of S about these VMs."""
    speaker = scene.speakers["S"]
    scene.now += 10_000_000
    speaker.seq += 1
    scene.offsets[0] += 1
    report = ReportObservations(
        scene.offsets[0], scene.now, scene.now, speaker.id, speaker.boot_id, EPOCH, speaker.seq, list(told),
        force=force,
    )  # fmt: skip
    batch = ObservationBatch(source=0, log=0, tick=0, tick_at=0, rules_version=1, reports=[report])
    return Input(0, len(scene.log), scene.now, None, encode(batch), header_of(ObservationBatch))


def isolate(scene: Scene, record: Input, condemned: Sequence[bytes] = (), **options: Any) -> list[Output]:
    """Isolate this input and seal."""
    options = {"fits": lambda topic, size: True, "before": lambda names: None, **options}
    scene.log.append(record)
    scene.core.isolate(record, condemned, options["fits"], options["before"])
    batch = scene.core.seal()
    scene.batches.append(batch)
    scene.outputs += batch.outputs
    return batch.outputs


def restarted(scene: Scene) -> Any:
    """The core as the rows leave it."""
    loader = scene.stage.loader(0)
    for batch in scene.batches:
        for row in batch.rows:
            loader.add(*row)
    return loader.finish()


def letters(outputs: Sequence[Output]) -> list[dict[str, str]]:
    """Headers of the dead letters among these."""
    return [{name: value.decode() for name, value in out.headers} for out in outputs if out.topic == "dead.letters"]


def poison(vm: VmId = BAD, **more: Any) -> VmObservation:
    """What can not be applied."""
    return VmObservation(vm, {**facets_of("S", None, POISON), **more})


def test_the_vm_at_fault_is_quarantined_and_the_rest_counts(scene: Scene) -> None:
    good = VmObservation(GOOD, facets_of("S", run("paused", pause="user")))
    record = batch_of(scene, good, poison())
    with pytest.raises(BrokenRule):
        scene.core.apply(record)
    scene.core = restarted(scene)
    outputs = isolate(scene, record)
    changes = {change.vm_id: change for change in changes_in(outputs)}
    assert changes[uuid_text(GOOD)].status is Status.PAUSED
    assert changes[uuid_text(GOOD)].availability.reasons == []
    assert changes[uuid_text(BAD)].availability.reasons == [Doubt.QUARANTINED]
    assert changes[uuid_text(BAD)].facets == {}
    (letter,) = letters(outputs)
    assert letter["dlq.topic"] == "vm.observations"
    assert (letter["dlq.reason"], letter["dlq.error"]) == ("poison", "BrokenRule: no rule for this")
    assert letter["dlq.vm"] == uuid_text(BAD)
    assert letter["dlq.offset"] == str(record.offset)
    (request,) = [one for one in scene.requests if one.reason == "quarantine"]
    assert request.force
    assert request.host_id == scene.speakers["S"].id


def test_the_letter_holds_what_was_said_of_that_vm_alone(scene: Scene) -> None:
    record = batch_of(scene, VmObservation(GOOD, facets_of("S", run("paused", pause="user"))), poison())
    outputs = isolate(scene, record)
    (value,) = [out.value for out in outputs if out.topic == "dead.letters"]
    assert value is not None
    (report,) = decode(ObservationBatch, value, header_of(ObservationBatch)).reports
    assert report.vms == [poison()]


def test_others_are_exactly_as_if_nobody_had_spoken_of_it(scene: Scene) -> None:
    good = VmObservation(GOOD, facets_of("S", run("paused", pause="user")))
    with_poison = batch_of(scene, poison(), good)
    batch = decode(ObservationBatch, with_poison.value, with_poison.schema)
    alone = msgspec.structs.replace(batch.reports[0], vms=[good])
    without = with_poison._replace(value=encode(msgspec.structs.replace(batch, reports=[alone])))
    other = restarted(scene)
    other.apply(without)
    isolate(scene, with_poison)
    expected = {head.vm_id: head for head in heads_of(other.state, applied=0)}
    found = {head.vm_id: head for head in heads_of(scene.core.state, applied=0)}
    assert found[uuid_text(GOOD)] == expected[uuid_text(GOOD)]
    assert found[uuid_text(BAD)].claims == expected[uuid_text(BAD)].claims
    assert found[uuid_text(BAD)].facets == expected[uuid_text(BAD)].facets


def test_a_restart_between_outputs_and_rows_says_the_same_again(scene: Scene) -> None:
    record = batch_of(scene, poison())
    before = restarted(scene)
    first = isolate(scene, record)
    scene.core = before
    scene.log.pop()
    assert isolate(scene, record) == first


def test_quarantine_survives_a_restart_and_needs_no_isolation_from_outside(scene: Scene) -> None:
    isolate(scene, batch_of(scene, poison()))
    scene.core = restarted(scene)
    assert scene.core.state.suspects == {BAD}
    record = batch_of(scene, poison())
    scene.apply(record.value, record.schema)
    assert [letter["dlq.reason"] for letter in letters(scene.outputs)] == ["poison", "poison"]
    assert len([one for one in scene.requests if one.reason == "quarantine"]) == 1


def test_the_owners_forced_word_ends_it_and_a_partial_one_does_not(scene: Scene) -> None:
    isolate(scene, batch_of(scene, poison()))
    partial = batch_of(scene, VmObservation(BAD, facets_of("S", run("paused", pause="user"))))
    (change,) = scene.apply(partial.value, partial.schema)
    assert (change.status, change.availability.reasons) == (Status.PAUSED, [Doubt.QUARANTINED])
    forced = batch_of(scene, VmObservation(BAD, facets_of("S", run("up"))), force=True)
    changes = scene.apply(forced.value, forced.schema)
    assert changes[-1].availability.reasons == []
    assert scene.core.state.suspects == set()
    assert not restarted(scene).state.suspects


def answer(scene: Scene, *told: VmObservation) -> None:
    """A forced snapshot of S that says this and answers what was asked last."""
    forced = batch_of(scene, *told, force=True)
    batch = decode(ObservationBatch, forced.value, forced.schema)
    last = msgspec.structs.replace(batch.reports[0], answers=[scene.requests[-1].request_id])
    scene.apply(encode(msgspec.structs.replace(batch, reports=[last])), forced.schema)


def test_a_vm_whose_snapshot_failed_too_is_asked_for_again_once_its_changes_can_be_applied(scene: Scene) -> None:
    isolate(scene, batch_of(scene, poison()))
    answer(scene, poison())
    host = scene.core.state.hosts[scene.speakers["S"].id]
    assert (host.repair, scene.core.state.suspects, len(scene.requests)) == (None, {BAD}, 1)
    for pause in ("user", "io_error"):
        sound = batch_of(scene, VmObservation(BAD, facets_of("S", run("paused", pause=pause))))
        scene.apply(sound.value, sound.schema)
    scene.tick(ASK_MOST_TICKS - 10)
    assert len(scene.requests) == 1, "changes that can be applied ask no more often than one need does"
    scene.core = restarted(scene)
    scene.tick(20)
    assert [(one.reason, one.force, one.host_id) for one in scene.requests[1:]] == [("quarantine", True, host.id)]
    answer(scene, VmObservation(BAD, facets_of("S", run("up"), Console())))
    assert scene.last.availability.reasons == []
    assert scene.core.state.suspects == set()
    assert scene.core.state.hosts[host.id].repair is None


def test_what_fails_again_asks_for_nothing_more(scene: Scene) -> None:
    isolate(scene, batch_of(scene, poison()))
    answer(scene, poison())
    record = batch_of(scene, poison())
    scene.apply(record.value, record.schema)
    assert scene.core.state.hosts[scene.speakers["S"].id].repair is None


def test_leaving_its_owner_ends_it(scene: Scene) -> None:
    isolate(scene, batch_of(scene, poison()))
    left = batch_of(scene, VmObservation(BAD, {}, GoneReason.UNDEFINED))
    scene.apply(left.value, left.schema)
    assert Doubt.QUARANTINED not in scene.last.availability.reasons
    assert scene.core.state.suspects == set()


def test_a_vm_whose_birth_fails_leaves_no_row(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    unborn = VmId(bytes([7] * 16))

    def broken_birth(turn: Any, vm_id: VmId, host: Any, observation: VmObservation) -> Any:
        born = birth(turn, vm_id, host, observation)
        if b"10.0.0.66" in observation.facets.get("console", b""):
            raise BrokenRule("not this one")
        return born

    monkeypatch.setattr(rules, "birth", broken_birth)
    outputs = isolate(scene, batch_of(scene, VmObservation(unborn, facets_of("S", run("up"), POISON))))
    assert changes_in(outputs) == []
    assert unborn not in scene.core.state.vms
    assert unborn not in scene.core.state.hosts[scene.speakers["S"].id].claims
    assert [letter["dlq.vm"] for letter in letters(outputs)] == [uuid_text(unborn)]


def test_what_ended_a_process_is_not_tried_again(scene: Scene) -> None:
    tried: list[bytes] = []
    good = VmObservation(GOOD, facets_of("S", run("paused", pause="user")))
    harmless = VmObservation(BAD, facets_of("S", run("paused", pause="user")))
    outputs = isolate(scene, batch_of(scene, good, harmless), condemned=[BAD], before=tried.extend)
    assert tried == [GOOD]
    assert [letter["dlq.reason"] for letter in letters(outputs)] == ["crash"]
    changed = {change.vm_id: change.availability.reasons for change in changes_in(outputs)}
    assert changed == {uuid_text(GOOD): [], uuid_text(BAD): [Doubt.QUARANTINED]}


def test_every_vm_is_marked_before_it_is_applied(scene: Scene) -> None:
    marks: list[tuple[list[bytes], int]] = []
    told = [VmObservation(vm, facets_of("S", run("paused", pause="user"))) for vm in (GOOD, BAD)]
    record = batch_of(scene, *told)
    isolate(scene, record, before=lambda names: marks.append((list(names), len(scene.core.state.dirty_heads))))
    assert marks == [([GOOD], 0), ([BAD], 1), ([], 2)]


def test_a_mark_that_can_not_be_written_is_nobody_s_fault(scene: Scene) -> None:
    def undelivered(names: Sequence[bytes]) -> None:
        raise DeliveryFailed("the broker is away")

    with pytest.raises(DeliveryFailed):
        isolate(scene, batch_of(scene, poison()), before=undelivered)
    assert scene.core.state.suspects == set()


def test_a_row_too_large_for_its_topic_quarantines_its_vm(scene: Scene) -> None:
    told = msgspec.structs.replace(run("paused", pause="user"), exit_message="x" * 3_000)
    large = VmObservation(BAD, facets_of("S", told))
    good = VmObservation(GOOD, facets_of("S", run("paused", pause="user")))
    limits = {"vm.state": 2_500}
    outputs = isolate(
        scene, batch_of(scene, good, large), fits=lambda topic, size: size <= limits.get(topic, 1_000_000)
    )
    (letter,) = letters(outputs)
    assert (letter["dlq.reason"], letter["dlq.vm"]) == ("too_large", uuid_text(BAD))
    changed = {change.vm_id: change.status for change in changes_in(outputs)}
    assert changed == {uuid_text(GOOD): Status.PAUSED, uuid_text(BAD): Status.UP}
    assert all(len(row.value or b"") <= 2_500 for row in scene.batches[-1].rows)


def test_a_timer_that_raises_is_stopped_with_its_vm(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(turn: Any, vm: Any) -> None:
        raise BrokenRule("out of time")

    scene.tell("S", run("powering_up"), vm=BAD)
    monkeypatch.setitem(rules.TIMERS, timers.POWERING_UP, broken)
    with pytest.raises(BrokenRule):
        scene.tick(70)
    failed = scene.log.pop()
    scene.core = restarted(scene)
    changes = changes_in(isolate(scene, failed))
    assert [(change.vm_id, change.availability.reasons) for change in changes] == [
        (uuid_text(BAD), [Doubt.QUARANTINED])
    ]
    scene.tick(10)
    assert [request.reason for request in scene.requests][-1] == "quarantine"
    assert timers.POWERING_UP not in {timer.kind for timer in restarted(scene).state.vms[BAD].timers}


def test_an_input_that_nobody_can_be_blamed_for_is_put_aside_whole(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(turn: Any, host: Any) -> None:
        raise BrokenRule("no host")

    monkeypatch.setattr(rules, "mind_boot", broken)
    record = batch_of(scene, VmObservation(GOOD, facets_of("S", run("paused", pause="user"))))
    outputs = isolate(scene, record)
    (value,) = [out.value for out in outputs if out.topic == "dead.letters"]
    assert value == record.value
    assert scene.core.applied == record.offset
    assert scene.core.state.suspects == {GOOD}
    assert scene.last.availability.reasons == [Doubt.QUARANTINED]
    assert scene.requests[-1].reason == "quarantine"


def test_an_intent_that_raises_is_put_aside(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(state: Any, record: Input) -> None:
        state.intents.next_offset += 1
        raise BrokenRule("no intent")

    monkeypatch.setattr(rules, "take_intent", broken)
    record = Input(0, len(scene.log), scene.now, INTENT_KEY, b"intent", header_of(IntentCopy))
    outputs = isolate(scene, record)
    assert [letter["dlq.error"] for letter in letters(outputs)] == ["BrokenRule: no intent"]
    assert (scene.core.applied, scene.core.next_intent) == (record.offset, 0)


def test_looking_at_the_rows_of_a_vm_changes_nothing(scene: Scene) -> None:
    record = batch_of(scene, VmObservation(GOOD, facets_of("S", run("paused", pause="user"))))
    scene.core.apply(record)
    twin = restarted(scene)
    twin.apply(record)
    assert rows_of(scene.core.state, GOOD)
    assert scene.core.seal() == twin.seal()


def test_reasserted_rows_are_written_as_they_are_and_unknown_ones_deleted(scene: Scene) -> None:
    speaker = scene.speakers["S"]
    known = uuid_text(GOOD).encode()
    facet = b"%b/%b/console" % (known, uuid_text(speaker.id).encode())
    host = b"#host/" + uuid_text(speaker.id).encode()
    foreign = uuid_text(VmId(bytes([9] * 16))).encode()
    for key in (known, facet, host, foreign, foreign + facet[36:], b"#partition", b"#selftest", b"not an id"):
        scene.core.reassert(key)
    scene.tick(1)
    rows = {row.key: row.value for row in scene.batches[-2].rows}
    head = rows[known]
    assert head is not None
    assert decode(VmHead, head, header_of(VmHead)).vm_id == known.decode()
    assert rows[facet] is not None
    assert rows[host] is not None
    assert rows[foreign] is None
    assert rows[foreign + facet[36:]] is None
    assert TOPIC_IDS
    assert VM not in scene.core.state.vms
