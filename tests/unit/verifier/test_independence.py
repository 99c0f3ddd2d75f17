"""The verifier shares no code with what it verifies."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
VERIFIER = ROOT / "tests" / "verifier"
ALLOWED = {"confluent_kafka", "msgpack", "psycopg", "xxhash"}
PRODUCT = ("schemas", "producers", "streams", "sinks", "infra")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides who is imported"
            names.add(node.module or "")
    return names


def test_it_imports_the_standard_library_four_clients_and_itself() -> None:
    modules = [path for path in VERIFIER.glob("*.py") if not path.name.startswith("test_")]
    assert len(modules) > 10
    broken = [
        f"{path.name} imports {name}"
        for path in modules
        for name in imported(path)
        if not name.startswith("tests.verifier.")
        and name.split(".")[0] not in ALLOWED
        and name.split(".")[0] not in sys.stdlib_module_names
    ]
    assert broken == []


def test_nothing_of_the_product_is_loaded_with_it() -> None:
    """Not even through what it imports."""
    code = (
        "import sys, tests.verifier.__main__, tests.verifier.recovery\n"
        f"print([name for name in sys.modules if name.split('.')[0] in {PRODUCT!r}])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_files_stay_readable() -> None:
    for path in VERIFIER.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 400, path.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path.name}: {node.name}"
