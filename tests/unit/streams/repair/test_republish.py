"""`republish` and the copies of intents: the same version again, exactly once in effect, nothing that is not signed."""

import pytest

from schemas.codec import decode, encode, header_of
from schemas.dead_letter import LETTER_LIMIT_BYTES
from schemas.ids import VmId, key_of, uuid_text
from schemas.intent import INTENT_LIMIT_BYTES, Intent, IntentCopy, Operation, is_signed, sign_intent, signed
from schemas.vm_state import VmFacet, VmHead
from streams.runtime.copier import CopySigner, Original
from tests.unit.streams.hosts.world import vm
from tests.unit.streams.repair.line import INTENT_SECRET, TOPIC_IDS, Line

VM = vm(100)


@pytest.fixture
def line() -> Line:
    return Line()


def intent(vm_id: VmId = VM, op: Operation = Operation.REPUBLISH) -> bytes:
    return encode(Intent(vm_id=uuid_text(vm_id), intent_id="one", op=op, by="operator"))


def feed(line: Line, offset: int, *, previous: int | None = None, value: bytes | None = None, vm_id: VmId = VM) -> None:
    partition = line.home_of(VM)
    value = intent(vm_id) if value is None else value
    line.feed_copy(partition, line.copy_of(partition, value, offset=offset, previous=previous, key=key_of(vm_id)))


def outcomes(line: Line) -> dict[str, int]:
    return {labels[0]: amount for (_, labels), amount in line.counts_of("intents_records").items()}


def reasons(line: Line) -> list[tuple[str, str]]:
    return [(dict(out.headers)["dlq.topic"].decode(), dict(out.headers)["dlq.reason"].decode()) for out in line.dead]


def test_head_and_facets_are_written_again_under_the_same_version(line: Line) -> None:
    partition = line.home_of(VM)
    table = line.vms_table[partition]
    before = {key: row for key, row in table.items() if key.startswith(key_of(VM))}
    changes = len(line.changes)

    feed(line, 0)

    again = list(table.values())[-len(before) - 1 : -1]
    assert {row.key for row in again} == set(before)
    assert again[-1].key == key_of(VM), "details first, the head last"
    assert len(line.changes) == changes, "no reader of changes hears anything"
    for row in again:
        known = before[row.key]
        assert row.value is not None
        assert known.value is not None
        kind = VmHead if row.key == key_of(VM) else VmFacet
        one, other = decode(kind, row.value, row.schema), decode(kind, known.value, known.schema)
        assert isinstance(one, VmHead | VmFacet)
        assert isinstance(other, VmHead | VmFacet)
        assert (one.incarnation, one.version) == (other.incarnation, other.version)
        assert one.applied > other.applied
        if isinstance(one, VmHead) and isinstance(other, VmHead):
            assert (one.digest, one.facets, one.claims) == (other.digest, other.facets, other.claims)
    assert outcomes(line) == {"republished": 1}
    line.reload_vms(partition)
    assert line.disagreements() == []


def test_a_copy_counts_once(line: Line) -> None:
    for offset in (0, 0, 1, 0, 1, 2):
        feed(line, offset)

    assert outcomes(line) == {"republished": 3, "repeat": 3}
    assert line.vms[line.home_of(VM)].next_intent == 3


def test_a_copy_behind_one_that_was_lost_is_refused_until_that_one_came(line: Line) -> None:
    feed(line, 0)
    feed(line, 2)
    feed(line, 1)
    feed(line, 2)

    assert outcomes(line) == {"republished": 3, "out_of_order": 1}


def test_what_retention_cut_is_stepped_over(line: Line) -> None:
    feed(line, 0)
    feed(line, 500, previous=0)

    assert outcomes(line) == {"republished": 2}
    assert line.vms[line.home_of(VM)].next_intent == 501


def test_a_restart_goes_on_where_the_table_is(line: Line) -> None:
    partition = line.home_of(VM)
    feed(line, 0)
    feed(line, 1)
    line.reload_vms(partition)

    feed(line, 1)
    feed(line, 2)

    assert outcomes(line) == {"republished": 3, "repeat": 1}


def test_another_topic_of_intents_begins_at_its_start(line: Line) -> None:
    feed(line, 0)
    line.stage._topic_ids["vm.intents"] = "other"
    line.reload_vms(line.home_of(VM))

    assert line.vms[line.home_of(VM)].next_intent == 0


@pytest.mark.parametrize("forge", ["secret", "topic", "partition", "value", "offset", "previous"])
def test_a_forged_copy_is_put_aside_and_moves_nothing(line: Line, forge: str) -> None:
    partition = line.home_of(VM)
    copy = IntentCopy(
        offset=0, previous=-1, appended_at=1, key=key_of(VM), schema=b"Intent/1.0", value=intent(), mac=b""
    )
    secret = b"guessed key of many letters" if forge == "secret" else INTENT_SECRET
    topic = "other" if forge == "topic" else TOPIC_IDS["vm.intents"]
    place = partition + 1 if forge == "partition" else partition
    made = signed(secret, topic, place, copy)
    if forge in ("value", "offset", "previous"):
        changed = {"value": intent(vm(101)), "offset": 1, "previous": -2}[forge]
        values = {name: getattr(made, name) for name in made.__struct_fields__} | {forge: changed}
        made = IntentCopy(**values)

    line.feed_copy(partition, encode(made))

    assert outcomes(line) == {"forged": 1}
    assert reasons(line) == [("vm.observations", "forged_intent")]
    assert line.vms[partition].next_intent == 0


def test_without_a_key_no_copy_is_believed(line: Line) -> None:
    partition = line.home_of(VM)
    line.vms[partition].state.intents.secret = b""
    copy = IntentCopy(
        offset=0, previous=-1, appended_at=1, key=key_of(VM), schema=b"Intent/1.0", value=intent(), mac=b""
    )

    line.feed_copy(partition, encode(signed(b"", TOPIC_IDS["vm.intents"], partition, copy)))

    assert outcomes(line) == {"forged": 1}


def test_a_signature_covers_where_one_part_ends_and_the_next_begins() -> None:
    one = IntentCopy(offset=0, previous=-1, appended_at=1, key=b"ab", schema=b"c", value=b"d", mac=b"")
    other = IntentCopy(
        offset=0, previous=-1, appended_at=1, key=b"a", schema=b"bc", value=b"d", mac=sign_intent(b"k", "t", 0, one)
    )

    assert not is_signed(b"k", "t", 0, other)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"\xc1", "malformed_intent"),
        (encode(Intent(vm_id="x" * 36, intent_id="one", op=Operation.REPUBLISH, by="me")), "malformed_intent"),
        (intent(vm(101)), "malformed_intent"),
        (b"\x81\xa5vm_id" + b"\xda\xff\xff" + bytes(INTENT_LIMIT_BYTES), "malformed_intent"),
        (intent(op=Operation.STOP), "unsupported_intent"),
    ],
    ids=["no record", "no id", "another key", "too long", "not yet"],
)
def test_an_intent_nobody_can_use_is_put_aside_and_the_next_counts(line: Line, value: bytes, reason: str) -> None:
    feed(line, 0, value=value)
    feed(line, 1)

    assert reasons(line) == [("vm.intents", reason)]
    assert outcomes(line)["republished"] == 1


@pytest.mark.parametrize(
    ("key", "schema", "value"),
    [
        (key_of(VM), b"Intent/1.0", bytes(100 * 1024)),
        (key_of(VM), b"Intent/1.0", bytes(4 * 1024 * 1024)),
        (bytes(100 * 1024), b"Intent/1.0", intent()),
        (key_of(VM), bytes(100 * 1024), intent()),
    ],
    ids=["100 KiB", "4 MiB", "key", "schema"],
)
def test_an_intent_too_large_to_be_copied_blocks_nobody(line: Line, key: bytes, schema: bytes, value: bytes) -> None:
    partition = line.home_of(VM)
    signer = CopySigner(secret=INTENT_SECRET, topic_id=TOPIC_IDS["vm.intents"])
    originals = [Original(0, 1, key, schema, value), Original(1, 1, key_of(VM), b"Intent/1.0", intent())]

    for copy in signer.copies(partition, 0, originals):
        assert len(copy) < 8 * 1024
        line.feed_copy(partition, copy)

    assert reasons(line) == [("vm.intents", "malformed_intent")]
    (letter,) = line.dead
    assert f"value of {len(value)} bytes" in dict(letter.headers)["dlq.error"].decode()
    assert outcomes(line) == {"malformed": 1, "republished": 1}
    assert line.vms[partition].next_intent == 2


def test_a_letter_of_a_huge_copy_is_cut(line: Line) -> None:
    line.feed_copy(0, bytes(LETTER_LIMIT_BYTES + 5))

    (letter,) = line.dead
    assert len(letter.value or b"") == LETTER_LIMIT_BYTES
    assert dict(letter.headers)["dlq.size"] == str(LETTER_LIMIT_BYTES + 5).encode()


def test_an_unknown_vm_is_counted(line: Line) -> None:
    other = next(vm(number) for number in range(500, 600) if line.home_of(vm(number)) == line.home_of(VM))

    feed(line, 0, vm_id=other)

    assert outcomes(line) == {"unknown_vm": 1}


def test_junk_under_the_key_of_copies_is_put_aside(line: Line) -> None:
    line.feed_copy(0, b"junk")

    assert reasons(line) == [("vm.observations", "malformed_record")]
    assert line.vms[0].applied == len(line.vms_log[0]) - 1


def test_header_names_the_record() -> None:
    assert header_of(IntentCopy) == b"IntentCopy/1.0"
