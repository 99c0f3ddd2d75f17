"""The table reference (docs/schema.md), made from the migrations' own text and comments. Pure."""

import re
from collections.abc import Sequence

from sinks.postgres.migrate import Migration
from sinks.postgres.roles import SINK_PRIVILEGES

_TABLE = re.compile(r"^CREATE TABLE (\w+) \((.*?)^\)(.*?);", re.MULTILINE | re.DOTALL)
_COLUMN = re.compile(r"^    ([a-z]\w*) ([a-z0-9\[\]]+)( NOT NULL)?( PRIMARY KEY)?", re.MULTILINE)
_VIEW = re.compile(r"^CREATE VIEW (\w+)", re.MULTILINE)
_FUNCTION = re.compile(r"^CREATE FUNCTION (\w+)\((.*?)\) RETURNS (.*?)(?= LANGUAGE|\n)", re.MULTILINE)
_COMMENT = re.compile(r"^COMMENT ON (\w+) ([\w.]+)(?:\([^)]*\))? IS\s+'((?:[^']|'')*)';", re.MULTILINE)


def render(migrations: Sequence[Migration]) -> str:
    """Markdown: tables with their columns, views, functions."""
    sql = "\n".join(migration.sql for migration in migrations)
    comments = {name: text.replace("''", "'") for _, name, text in _COMMENT.findall(sql)}
    parts = [
        "# Database schema",
        "Made from `sinks/postgres/migrations` by `deltavisor db describe`; do not edit.",
        "## Tables",
        *(_table(name, body, tail, comments) for name, body, tail in _TABLE.findall(sql)),
        "## Views",
        "\n".join(f"- `{name}`: {comments[name]}" for name in _VIEW.findall(sql)),
        "## Functions",
        "\n".join(
            f"- `{name}({arguments})` returns `{result}`: {comments[name]}"
            for name, arguments, result in _FUNCTION.findall(sql)
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _table(name: str, body: str, tail: str, comments: dict[str, str]) -> str:
    rows = [
        f"| `{column}` | {kind}{' not null' if required else ''}{', key' if key else ''} "
        f"| {comments.get(f'{name}.{column}', '')} |"
        for column, kind, required, key in _COLUMN.findall(body)
    ]
    partitioned = re.search(r"PARTITION BY (.*)", tail)
    rights = ", ".join(SINK_PRIVILEGES[name]).lower()
    about = [comments[name], f"The sink may {rights}."]
    if partitioned is not None:
        about.insert(1, f"Partitioned by {partitioned[1].strip().lower()}, one partition per UTC day.")
    return "\n".join([f"### {name}", "", " ".join(about), "", "| column | type | |", "|---|---|---|", *rows])
