"""The parts of a worker that hit failpoints: what is durable, and what not, when they fire."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from infra.runtime.failpoints import Failpoints, parse
from streams.runtime.breaking import BreakableSender, breaking
from streams.runtime.outbox import Outbox
from streams.runtime.sender import DeliveryFailed, PartitionRow
from streams.runtime.stage import PARTITION_KEY, Output, Row
from streams.runtime.wiring import PLAIN

ROWS = [PartitionRow(0, Row(key, b"", None)) for key in (b"row0", b"row1", PARTITION_KEY)]
OUTPUTS = [Output("out", 0, b"out%d" % number, b"", ()) for number in range(2)]


class Death(BaseException):
    """Stands for the end of the process."""


class Durable:
    """Remembers what became durable."""

    def __init__(self) -> None:
        self.keys: list[bytes | None] = []

    def send(self, rows: Sequence[PartitionRow], outputs: Sequence[Output]) -> None:
        self.keys += [row.row.key for row in rows]
        self.keys += [output.key for output in outputs]

    def purge(self) -> None:
        """Nothing waits."""


def _die() -> None:
    raise Death


def _send(armed: str) -> list[bytes | None]:
    durable = Durable()
    sender = BreakableSender(Failpoints("vms", parse(armed), kill=_die), durable)
    with pytest.raises(Death):
        sender.send(ROWS, OUTPUTS)
    return durable.keys


@pytest.mark.parametrize(
    ("armed", "durable"),
    [
        ("before_outputs", []),
        ("before_rows", []),
        ("row:kill:1", [b"row0"]),
        ("row:kill:2", [b"row0", b"row1"]),
        ("rows_alone", [b"row0", b"row1", PARTITION_KEY]),
        ("outputs_alone", [b"out0", b"out1"]),
        ("outputs_delivered", [b"row0", b"row1", PARTITION_KEY, b"out0", b"out1"]),
        ("rows_delivered", [b"row0", b"row1", PARTITION_KEY, b"out0", b"out1"]),
    ],
)
def test_a_death_leaves_what_its_name_says(armed: str, durable: list[bytes]) -> None:
    assert _send(f"vms.outbox.{armed}") == durable


@pytest.mark.parametrize("point", ["outputs_delivered", "rows_delivered"])
def test_a_dropped_report_is_a_failed_delivery_of_what_is_durable(point: str) -> None:
    durable = Durable()
    sender = BreakableSender(Failpoints("vms", parse(f"vms.outbox.{point}:drop")), durable)
    with pytest.raises(DeliveryFailed):
        sender.send(ROWS, OUTPUTS)
    assert len(durable.keys) == len(ROWS) + len(OUTPUTS)


def test_what_the_runtime_notes_of_itself_is_no_wave() -> None:
    durable = Durable()
    points = Failpoints("vms", parse("vms.outbox.before_rows,vms.outbox.row,vms.outbox.rows_delivered"), kill=_die)
    BreakableSender(points, durable).send(ROWS[:1], ())
    assert durable.keys == [b"row0"]


def test_an_unarmed_flush_goes_through() -> None:
    durable = Durable()
    BreakableSender(Failpoints("vms", parse("vms.load.read")), durable).send(ROWS, OUTPUTS)
    assert len(durable.keys) == len(ROWS) + len(OUTPUTS)


def test_a_worker_without_failpoints_is_made_of_the_plain_parts() -> None:
    assert PLAIN.outbox is Outbox
    assert PLAIN.sender(durable := Durable()) is durable
    assert breaking(Failpoints("vms", ())).transport is not PLAIN.transport
