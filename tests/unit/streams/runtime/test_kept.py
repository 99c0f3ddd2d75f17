"""When a table may be believed (faults P8, B6)."""

import pytest

from infra.runtime.errors import TopicMismatch
from streams.runtime.continuity import InputBounds
from streams.runtime.kept import TableLog, loss_of, require_kept
from streams.runtime.stage import Kept

KEPT = Kept(foreign=False, table_start=0)


def bounds(*, start: int = 0, committed: int | None = None) -> InputBounds:
    return InputBounds(start=start, end=start + 10, committed=committed)


def table(kept: Kept | None = KEPT, *, start: int = 0, rebuilding_since: int | None = None) -> TableLog:
    return TableLog(start=start, kept=kept, rebuilding_since=rebuilding_since)


def test_p8_empty_table_is_believed_only_where_nothing_was_ever_read() -> None:
    assert loss_of(table(None), bounds()) is None
    assert "was read up to offset 7" in (loss_of(table(None), bounds(committed=7)) or "")
    assert "begins at offset 3" in (loss_of(table(None), bounds(start=3)) or "")


def test_p8_cut_table_is_lost_until_a_rebuild_says_where_it_begins() -> None:
    assert loss_of(table(), bounds(start=3, committed=5)) is None
    assert "begins at offset 9, not at 0" in (loss_of(table(start=9), bounds()) or "")
    assert loss_of(table(Kept(foreign=False, table_start=9), start=9), bounds()) is None


def test_unfinished_rebuild_is_a_loss_whatever_else_is_there() -> None:
    assert "not finished" in (loss_of(table(rebuilding_since=1), bounds()) or "")


@pytest.mark.parametrize(
    ("log", "advice"),
    [(table(None), "deltavisor rebuild"), (table(Kept(foreign=True, table_start=0)), "deltavisor topics adopt")],
)
def test_b6_refusal_names_the_command(log: TableLog, advice: str) -> None:
    with pytest.raises(TopicMismatch, match=advice):
        require_kept(log, bounds(committed=4), table_where="t[0]", input_where="i[0]")
