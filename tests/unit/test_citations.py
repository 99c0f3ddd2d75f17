"""Numbers and pages that code and documents refer to: each leads to something that exists.

Looked at are the comments and docstrings of all Python files, and all of the Markdown, SQL and TOML files.
"""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "infra", "producers", "schemas", "sinks", "streams", "tests")
RULES = ROOT / "docs" / "rules.md"
DESIGN = ROOT / "docs" / "design.md"
FAULTS = ROOT / "docs" / "faults.md"

RULE = re.compile(r"(?<![\w-])([HAOSND][1-9]\d?b?)(?![\w′'])")
"""A5 in text. I5 is left out: without "rule" before it, it is an invariant."""
NAMED_RULES = re.compile(r"\b[Rr]ules? ((?:[A-Z]\d+b?(?:, | and | or | over | to |-)?)+)")
INVARIANT = re.compile(r"(?<![\w-])(?:INV-|I)([1-9]\d?)\b")
NAMED_FAULTS = re.compile(r"\b[Ff]aults? ((?:[A-Z]\d+(?:, | and | or | to )?)+)|\bF-([A-Z]\d+)\b")
SECTION = re.compile(r"§+ ?(\d+(?:\.\d+)?)")
PAGE_BEFORE = re.compile(r"\b(design|rules)\W+(?:§+ ?[\d.]+(?:, | and )?)*$", re.IGNORECASE)
DECISION = re.compile(r"\bdecisions?[ /](\d{4})")
DOCUMENT = re.compile(r"\bdocs/[\w./-]+\.(?:md|json)\b")
LINK = re.compile(r"\]\(([^)\s]+)\)")
MODULE = re.compile(r"`((?:hosts|vms|repair|runtime)/\w+|(?:tests|schemas|producers)/[\w./]+)`")
CASE = re.compile(r"`((?:boot|farewell|loss|migration|removed|silence)_\w*\*?)`")
MADE_LATER = {
    "docs/benchmarks/soak-crash.json": "made by `make soak-crash`",
}


class Text(NamedTuple):
    """Something that people read, and where it begins."""

    path: Path
    line: int
    text: str

    def at(self, position: int) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line + self.text.count(chr(10), 0, position)}"


def files() -> Iterator[Path]:
    yield from sorted(ROOT.glob("*.md"))
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".py", ".md", ".sql", ".toml"} and not any(part.startswith(".") for part in path.parts):
                yield path


def said_in(path: Path) -> Iterator[Text]:
    """Comments and docstrings of a Python file, the whole of any other."""
    content = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield Text(path, 1, content)
        return
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if token.type == tokenize.COMMENT:
            yield Text(path, token.start[0], token.string)
    for node in ast.walk(ast.parse(content, filename=str(path))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield Text(path, node.lineno, node.value.value)


@cache
def texts() -> tuple[Text, ...]:
    return tuple(text for path in files() if path != Path(__file__) for text in said_in(path))


@cache
def rules() -> frozenset[str]:
    return frozenset(re.findall(r"^\| \*\*([A-Z]\d+b?)\*\* \|", RULES.read_text(encoding="utf-8"), re.MULTILINE))


@cache
def sections(page: Path) -> frozenset[str]:
    found = re.findall(r"^(?:#+ |- \*\*)(\d+(?:\.\d+)?)\.? ", page.read_text(encoding="utf-8"), re.MULTILINE)
    return frozenset(found)


@cache
def invariants() -> frozenset[str]:
    return frozenset(re.findall(r"^\| I(\d+) \|", FAULTS.read_text(encoding="utf-8"), re.MULTILINE))


@cache
def faults() -> frozenset[str]:
    """`F-P1 … F-P5` stands for five, `F-S6, F-S7` for two."""
    found: set[str] = set()
    for row in re.findall(r"^\| (F-[^|]+) \|", FAULTS.read_text(encoding="utf-8"), re.MULTILINE):
        numbers = re.findall(r"F-([A-Z])(\d+)", row)
        found |= {series + number for series, number in numbers}
        if "…" in row:
            (series, first), (_, last) = numbers
            found |= {f"{series}{number}" for number in range(int(first), int(last) + 1)}
    return frozenset(found)


def numbers_in(listed: str) -> list[str]:
    return re.findall(r"[A-Z]\d+b?", listed)


def spans(text: str, *, of: re.Pattern[str]) -> list[tuple[int, int]]:
    return [match.span() for match in of.finditer(text)]


def wrong_rules(text: Text) -> Iterator[str]:
    faulty = spans(text.text, of=NAMED_FAULTS)
    for match in RULE.finditer(text.text):
        if match[1] not in rules() and not any(start <= match.start() < end for start, end in faulty):
            yield f"{text.at(match.start())}: {match[1]} is no rule"
    for match in NAMED_RULES.finditer(text.text):
        for number in numbers_in(match[1]):
            if number not in rules():
                yield f"{text.at(match.start())}: {number} is no rule"


def wrong_invariants(text: Text) -> Iterator[str]:
    named = spans(text.text, of=NAMED_RULES)
    for match in INVARIANT.finditer(text.text):
        of_rules = text.path == RULES or any(start <= match.start() < end for start, end in named)
        if not of_rules and match[1] not in invariants():
            yield f"{text.at(match.start())}: I{match[1]} is no invariant"


def wrong_faults(text: Text) -> Iterator[str]:
    for match in NAMED_FAULTS.finditer(text.text):
        for number in numbers_in(match[1] or match[2]):
            if number not in faults():
                yield f"{text.at(match.start())}: {number} is no fault"


def wrong_sections(text: Text) -> Iterator[str]:
    own = {RULES: RULES, DESIGN: DESIGN}.get(text.path)
    for match in SECTION.finditer(text.text):
        named = PAGE_BEFORE.search(text.text[: match.start()])
        page = own if named is None else {"design": DESIGN, "rules": RULES}[named[1].lower()]
        if page is None:
            yield f"{text.at(match.start())}: §{match[1]} of which page? Write design §… or rules §…"
        elif match[1] not in sections(page):
            yield f"{text.at(match.start())}: {page.name} has no section {match[1]}"


def wrong_pages(text: Text) -> Iterator[str]:
    for match in DECISION.finditer(text.text):
        if not list((ROOT / "docs" / "decisions").glob(f"{match[1]}-*.md")):
            yield f"{text.at(match.start())}: there is no decision {match[1]}"
    for match in DOCUMENT.finditer(text.text):
        if not (ROOT / match[0]).exists() and match[0] not in MADE_LATER:
            yield f"{text.at(match.start())}: there is no {match[0]}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def wrong_links(text: Text) -> Iterator[str]:
    if text.path.suffix != ".md":
        return
    for match in LINK.finditer(text.text):
        if "://" in match[1] or match[1].startswith("mailto:"):
            continue
        name, _, anchor = match[1].partition("#")
        target = (text.path.parent / name).resolve() if name else text.path
        listed = target.is_relative_to(ROOT) and str(target.relative_to(ROOT)) in MADE_LATER
        if not target.exists() and not listed:
            yield f"{text.at(match.start())}: leads to {match[1]}, which does not exist"
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            yield f"{text.at(match.start())}: {name or text.path.name} has no heading for #{anchor}"


@pytest.mark.parametrize(
    "look", [wrong_rules, wrong_invariants, wrong_faults, wrong_sections, wrong_pages, wrong_links]
)
def test_every_citation_leads_somewhere(look: Callable[[Text], Iterator[str]]) -> None:
    assert [complaint for text in texts() for complaint in look(text)] == []


def test_the_book_has_every_series_without_holes() -> None:
    """So a rule that is taken out of the book by mistake shows, also when nobody cites it."""
    for series, last in {"H": 7, "A": 7, "O": 9, "S": 10, "I": 7, "N": 5, "D": 6}.items():
        assert {number for number in rules() if number[0] == series} - {"H2b"} == {
            f"{series}{number}" for number in range(1, last + 1)
        }
    assert "H2b" in rules()
    assert sections(RULES) == {str(number) for number in range(1, 12)}


def test_the_book_points_to_modules_tests_and_cases_that_exist() -> None:
    text = RULES.read_text(encoding="utf-8")
    names = set(MODULE.findall(text))
    assert len(names) > 30, "the pattern no longer finds them"
    roots = [ROOT, ROOT / "streams", ROOT / "tests" / "unit" / "streams"]
    missing = [
        name for name in names if not any((root / name).exists() or (root / f"{name}.py").exists() for root in roots)
    ]
    assert sorted(missing) == []
    cases = set(CASE.findall(text))
    assert len(cases) > 20
    assert sorted(case for case in cases if not list((ROOT / "tests" / "cases").glob(case))) == []


def test_every_case_is_in_the_book() -> None:
    patterns = set(CASE.findall(RULES.read_text(encoding="utf-8")))
    listed = {found.name for pattern in patterns for found in (ROOT / "tests" / "cases").glob(pattern)}
    folders = {path.name for path in (ROOT / "tests" / "cases").iterdir() if (path / "log.txt").exists()}
    assert folders - listed == set()


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ("what the end of a run clears (D5)", None),
        ("rules A4, O9 and D6; faults M1, M7; INV-7", None),
        ("design §4.4, rules §5", None),
        ("see docs/rules.md and decision 0002", None),
        ("a second start (O10)", "O10 is no rule"),
        ("rules A1 and I8", "I8 is no rule"),
        ("I14 holds", "I14 is no invariant"),
        ("faults P8, M9", "M9 is no fault"),
        ("F-Z1", "Z1 is no fault"),
        ("design §7", "design.md has no section 7"),
        ("rules §12", "rules.md has no section 12"),
        ("the order of §5", "of which page"),
        ("see docs/rulez.md", "there is no docs/rulez.md"),
        ("decision 0099", "there is no decision 0099"),
        ("[here](../gone.md)", "which does not exist"),
        ("[here](rules.md#nowhere)", "no heading for #nowhere"),
    ],
)
def test_a_wrong_citation_is_found(said: str, complaint: str | None) -> None:
    text = Text(ROOT / "docs" / "made-up.md", 1, said)
    looks = (wrong_rules, wrong_invariants, wrong_faults, wrong_sections, wrong_pages, wrong_links)
    found = [one for look in looks for one in look(text)]
    if complaint is None:
        assert found == []
    else:
        assert len(found) == 1
        assert complaint in found[0]
