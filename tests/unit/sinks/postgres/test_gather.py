"""Gathering: continuity of offsets, when a batch is full or due, and what it spans."""

from __future__ import annotations

import pytest

from infra.runtime.errors import NewerVersion, OffsetHole, TooManyBad
from schemas.codec import encode, header_of
from schemas.host_change import HostChange
from schemas.vm_change import VmChange
from sinks.postgres.gather import Arrived, Gathering, oldest_observed_at
from sinks.postgres.plan import Span
from sinks.postgres.settings import BatchSettings
from tests.unit.sinks.change_log import change_log, host_log

VMS, HOSTS = "vm.changes", "host.changes"


def gathering(rows: int = 100, bytes_: int = 1 << 20) -> Gathering:
    settings = BatchSettings(rows=rows, bytes=bytes_, linger_seconds=0.02)
    made = Gathering(settings, {VMS: VmChange, HOSTS: HostChange})
    made.own((VMS, 0), 7, 10)
    made.own((HOSTS, 2), 3, 0)
    return made


def messages(count: int, *, start: int = 10) -> list[Arrived]:
    header = header_of(VmChange)
    changes = change_log(1, vms=3, changes=count)
    return [Arrived(VMS, 0, start + number, header, encode(change)) for number, change in enumerate(changes)]


def test_a_batch_spans_what_was_read() -> None:
    gathered = gathering()
    for message in messages(3):
        gathered.add(message)
    (change,) = host_log(1, hosts=1, changes=1)
    gathered.add(Arrived(HOSTS, 2, 0, header_of(HostChange), encode(change)))
    batch = gathered.batch(0.0)
    assert batch.spans == (
        Span(topic=HOSTS, partition=2, epoch=3, expected=0, next_offset=1),
        Span(topic=VMS, partition=0, epoch=7, expected=10, next_offset=13),
    )
    assert (len(batch.vms), len(batch.hosts), batch.rows) == (3, 1, 4)
    assert gathered.rows == 0


def test_the_next_batch_goes_on_where_the_last_ended() -> None:
    gathered = gathering()
    first, *rest = messages(3)
    gathered.add(first)
    gathered.batch(0.0)
    for message in rest:
        gathered.add(message)
    assert gathered.batch(1.0).spans == (Span(topic=VMS, partition=0, epoch=7, expected=11, next_offset=13),)


def test_a_hole_ends_the_process() -> None:
    with pytest.raises(OffsetHole, match=r"vm.changes\[0\]: expected offset 10, found 11"):
        gathering().add(messages(1, start=11)[0])


def test_an_offset_already_read_is_dropped() -> None:
    gathered = gathering()
    gathered.add(messages(1, start=9)[0])
    assert gathered.rows == 0


def test_a_partition_that_is_not_ours_is_dropped() -> None:
    gathered = gathering()
    gathered.forget()
    gathered.add(messages(1)[0])
    assert gathered.rows == 0


def test_forgetting_drops_what_was_read() -> None:
    gathered = gathering()
    gathered.add(messages(1)[0])
    gathered.forget()
    assert gathered.rows == 0
    assert not gathered.owned


def test_a_full_batch_goes_at_once() -> None:
    gathered = gathering(rows=2)
    gathered.batch(100.0)
    one, two = messages(2)
    gathered.add(one)
    assert gathered.room == 1
    assert gathered.wait_seconds(100.005) == pytest.approx(0.015)
    gathered.add(two)
    assert gathered.room == 0
    assert gathered.wait_seconds(100.005) == 0.0


def test_enough_bytes_make_a_batch_full() -> None:
    gathered = gathering(bytes_=1024)
    for message in messages(5):
        gathered.add(message)
    assert gathered.room == 0


def test_after_a_quiet_time_nothing_waits() -> None:
    gathered = gathering()
    gathered.batch(100.0)
    gathered.add(messages(1)[0])
    assert gathered.wait_seconds(100.5) == 0.0


@pytest.mark.parametrize(
    ("header", "value", "error"),
    [
        (header_of(VmChange), None, TooManyBad),
        (header_of(VmChange), b"\x80", TooManyBad),
        (header_of(VmChange), b"not msgpack", TooManyBad),
        (None, b"\x80", TooManyBad),
        (b"HostChange/1.0", b"\x80", TooManyBad),
        (b"VmChange/2.0", b"\x80", NewerVersion),
    ],
)
def test_what_can_not_be_read_is_named(header: bytes | None, value: bytes | None, error: type[Exception]) -> None:
    gathered = gathering()
    with pytest.raises(error, match=r"vm.changes\[0\]@10"):
        gathered.add(Arrived(VMS, 0, 10, header, value))
    assert gathered.rows == 0


def test_a_bad_facet_is_a_bad_record() -> None:
    (change,) = change_log(1, vms=1, changes=1)
    broken = encode(change).replace(b"booted", b"\xffooted")
    with pytest.raises(TooManyBad, match=r"@10"):
        gathering().add(Arrived(VMS, 0, 10, header_of(VmChange), broken))


def test_age_is_that_of_the_oldest_change() -> None:
    gathered = gathering()
    assert oldest_observed_at(gathered.batch(0.0)) is None
    for message in messages(3):
        gathered.add(message)
    batch = gathered.batch(0.0)
    oldest = oldest_observed_at(batch)
    assert oldest is not None
    assert oldest.timestamp() == pytest.approx(min(item.change.observed_at for item in batch.vms) / 1e9)
