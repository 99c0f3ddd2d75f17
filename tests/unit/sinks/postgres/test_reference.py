"""The table reference is made from the migrations, and the checked-in page is fresh."""

from __future__ import annotations

from pathlib import Path

from sinks.postgres.columns import TABLES
from sinks.postgres.migrate import load
from sinks.postgres.reference import render
from sinks.postgres.roles import VIEWS

PAGE = Path(__file__).resolve().parents[4] / "docs" / "schema.md"


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(load()), "run `deltavisor db describe > docs/schema.md`"


def test_every_table_column_and_view_is_described() -> None:
    page = render(load())
    for table, columns in TABLES.items():
        section = page.split(f"### {table}\n")[1].split("\n#")[0]
        described = {line.split("`")[1] for line in section.splitlines() if line.startswith("| `")}
        assert described == {column.name for column in columns}
    assert all(f"- `{view}`: " in page for view in VIEWS)
    assert "vm_as_of(at timestamptz)" in page
