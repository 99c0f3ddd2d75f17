"""Codec: versions, the guard of the trust boundary, and the ids' partitions."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import (
    ENVELOPE_LIMIT_BYTES,
    NewerMajorError,
    RecordError,
    SchemaVersion,
    decode,
    encode,
    guard,
    header_of,
)
from schemas.ids import murmur2, partition_of, uuid_bytes, uuid_text
from schemas.observation import ObservationBatch
from schemas.report import HostReport
from schemas.vm_change import VmChange
from tests.unit.schemas.samples import SAMPLES


def test_another_major_is_named() -> None:
    data = encode(SAMPLES["HostReport.heartbeat"])
    with pytest.raises(NewerMajorError, match=r"HostReport/2\.0 .* this process knows HostReport/1\.0"):
        decode(HostReport, data, b"HostReport/2.0")


def test_another_minor_is_read() -> None:
    data = encode(SAMPLES["HostReport.heartbeat"])
    assert decode(HostReport, data, b"HostReport/1.7") == SAMPLES["HostReport.heartbeat"]


@pytest.mark.parametrize(
    "header", [None, b"", b"HostReport", b"HostReport/1", b"HostReport/a.b", b"\xff\xfe/1.0", b"Tick/1.0"]
)
def test_missing_foreign_or_malformed_header_is_refused(header: bytes | None) -> None:
    with pytest.raises(RecordError):
        decode(HostReport, encode(SAMPLES["HostReport.heartbeat"]), header)


def test_bad_field_is_named_with_its_path() -> None:
    message = msgpack.unpackb(encode(SAMPLES["VmChange"]))
    message["evidence"]["offset"] = "late"
    with pytest.raises(RecordError, match=r"\$\.evidence\.offset"):
        decode(VmChange, msgpack.packb(message), header_of(VmChange))


def test_text_that_is_no_utf8_is_a_record_error() -> None:
    data = encode(SAMPLES["HostReport.changes"]).replace(b"pool-b", b"pool-\xff")
    with pytest.raises(RecordError):
        decode(HostReport, data, header_of(HostReport))


def test_public_records_ignore_unknown_fields() -> None:
    message = msgpack.unpackb(encode(SAMPLES["VmChange"]))
    message["of_a_later_minor"] = 1
    assert decode(VmChange, msgpack.packb(message), b"VmChange/1.1") == SAMPLES["VmChange"]


def test_internal_record_refuses_a_field_that_our_version_does_not_have() -> None:
    message = [*msgpack.unpackb(encode(SAMPLES["ObservationBatch"])), "surplus"]
    with pytest.raises(RecordError):
        decode(ObservationBatch, msgpack.packb(message), header_of(ObservationBatch))


def test_internal_record_of_a_later_minor_that_does_not_fit_is_newer_than_this_process() -> None:
    message = msgpack.unpackb(encode(SAMPLES["ObservationBatch"]))
    message[0] = "a word where a number was"
    with pytest.raises(NewerMajorError, match=r"this process knows ObservationBatch/1\.1: .*\[0\]"):
        decode(ObservationBatch, msgpack.packb(message), b"ObservationBatch/1.99")


def test_internal_record_of_a_later_minor_is_read_without_its_new_field() -> None:
    message = [*msgpack.unpackb(encode(SAMPLES["ObservationBatch"])), "of a later minor"]
    assert decode(ObservationBatch, msgpack.packb(message), b"ObservationBatch/1.99") == SAMPLES["ObservationBatch"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff\x01",
        b"\xc6\xff\xff\xff\xff\x00",
        b"\xdb\x7f\xff\xff\xff\x00",
        b"\x91" * 100_000 + b"\x01",
        b"\xc1",
        b"\x01\x02",
        b"\x00" * (ENVELOPE_LIMIT_BYTES + 1),
    ],
    ids=["empty", "huge array", "huge map", "huge bin", "huge text", "deep", "reserved", "two values", "too long"],
)
def test_guard_refuses_before_anything_is_allocated(data: bytes) -> None:
    with pytest.raises(RecordError):
        guard(data)


@given(st.binary(max_size=300))
def test_random_bytes_raise_the_documented_error_or_decode(data: bytes) -> None:
    try:
        guard(data)
        decode(HostReport, data, header_of(HostReport))
    except RecordError:
        return
    pytest.fail("random bytes are no report")


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_guard_lets_every_real_message_pass(name: str) -> None:
    guard(encode(SAMPLES[name]))


def test_schema_version_reads_back() -> None:
    version = SchemaVersion(record="VmChange", major=3, minor=12)
    assert SchemaVersion.parse(str(version)) == version


@given(st.uuids())
def test_uuid_text_and_bytes_are_inverse(value: object) -> None:
    text = str(value)
    assert uuid_text(uuid_bytes(text)) == text


def test_id_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        uuid_text(b"short")


@pytest.mark.parametrize(
    ("data", "hashed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_kafkas(data: bytes, hashed: int) -> None:
    """Vectors of Kafka's own unit test for Utils.murmur2 (signed there)."""
    assert murmur2(data) == hashed & 0xFFFFFFFF


@given(st.binary(max_size=80), st.integers(min_value=1, max_value=64))
def test_partition_is_in_range(key: bytes, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions
