"""What of the table's log reaches a loader, and what a group coordinator that is not there yet makes of a load."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from infra.runtime.settings import KafkaSettings
from schemas.codec import SCHEMA_HEADER
from streams.runtime import loading
from streams.runtime.loading import SELFTEST_KEY, TableReader
from streams.vms.app import VmsStage

Row = tuple[bytes, bytes | None, bytes | None]


class FakeMessage:
    """As confluent-kafka gives them."""

    def __init__(
        self, key: bytes | None, value: bytes | None, *, headers: list[tuple[str, bytes]] | None = None, code: int = 0
    ) -> None:
        self._key, self._value, self._headers, self._code = key, value, headers, code

    def error(self) -> KafkaError | None:
        return KafkaError(self._code) if self._code else None

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> list[tuple[str, bytes]] | None:
        return self._headers

    def partition(self) -> int:
        return 2


class Rows:
    """A loader that only keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(self, key: bytes, value: bytes | None, schema: bytes | None) -> None:
        self.rows.append((key, value, schema))


def taken(*messages: FakeMessage) -> list[Row]:
    reader = TableReader(KafkaSettings(), VmsStage(4, {}), group="g")
    loader: Any = Rows()
    given: Any = messages
    reader._take({2: loader}, given)
    rows: list[Row] = loader.rows
    return rows


def test_rows_reach_the_loader_of_their_partition_with_their_schema() -> None:
    headers = [("other", b"x"), (SCHEMA_HEADER, b"VmHead/1.0")]
    assert taken(FakeMessage(b"a", b"1", headers=headers), FakeMessage(b"b", None)) == [
        (b"a", b"1", b"VmHead/1.0"),
        (b"b", None, None),
    ]


def test_bookkeeping_of_the_stage_reaches_it_and_that_of_the_runtime_does_not() -> None:
    found = taken(FakeMessage(b"#partition", b"1"), FakeMessage(SELFTEST_KEY, None), FakeMessage(None, b"1"))
    assert [key for key, _, _ in found] == [b"#partition"]


def test_the_end_of_a_partition_is_no_error_and_everything_else_is() -> None:
    assert taken(FakeMessage(None, None, code=KafkaError._PARTITION_EOF), FakeMessage(b"a", b"1"))
    with pytest.raises(KafkaException):
        taken(FakeMessage(None, None, code=KafkaError._ALL_BROKERS_DOWN))


class FakeConsumer:
    """Answers with these errors, then with the offsets asked for."""

    def __init__(self, *codes: int) -> None:
        self._codes = list(codes)

    def committed(self, asked: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        if self._codes:
            raise KafkaException(KafkaError(self._codes.pop(0)))
        return asked


def test_a_coordinator_that_is_being_made_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "COORDINATOR_SECONDS", 0.0)
    asked = [TopicPartition("t", 0)]
    moving: Any = FakeConsumer(KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS)
    assert loading._committed(moving, asked) == asked
    refused: Any = FakeConsumer(KafkaError.GROUP_AUTHORIZATION_FAILED)
    with pytest.raises(KafkaException):
        loading._committed(refused, asked)


def test_a_coordinator_that_never_comes_ends_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "COORDINATOR_SECONDS", 0.0)
    monkeypatch.setattr(loading, "REQUEST_SECONDS", 0.0)
    never: Any = FakeConsumer(*[KafkaError.NOT_COORDINATOR] * 1_000)
    with pytest.raises(KafkaException):
        loading._committed(never, [TopicPartition("t", 0)])
