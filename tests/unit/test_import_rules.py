"""The import rules of the architecture: who may know whom."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("schemas", "producers", "streams", "sinks", "infra", "tests")
ALLOWED: dict[str, tuple[str, ...]] = {
    "schemas": ("schemas",),
    "infra/runtime": ("infra.runtime",),
    "producers": ("producers", "schemas", "infra.runtime"),
    "streams": ("streams", "schemas", "infra.runtime"),
    "sinks": ("sinks", "schemas", "infra.runtime"),
}
CORE_FORBIDDEN = {
    "faust", "mode", "aiokafka", "confluent_kafka", "psycopg", "structlog", "logging", "prometheus_client",
    "time", "datetime", "asyncio", "threading", "socket", "random", "uuid", "os", "pathlib",
}  # fmt: skip
SHELL_MODULES = {"app.py"}


def modules_below(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported_names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who is imported"
            yield node.module or ""


def is_ours(name: str) -> bool:
    return name.split(".")[0] in OURS


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_package_imports_only_what_it_may_know(folder: str) -> None:
    paths = modules_below(folder)
    assert paths, f"no module below {folder}: the rule would be empty"
    allowed = ALLOWED[folder]
    broken = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in imported_names(path)
        if is_ours(name) and not any(name == root or name.startswith(root + ".") for root in allowed)
    ]
    assert broken == []


@pytest.mark.parametrize("stage", ["streams/hosts", "streams/vms"])
def test_stage_cores_are_pure(stage: str) -> None:
    broken = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules_below(stage)
        if path.name not in SHELL_MODULES
        for name in imported_names(path)
        if name.split(".")[0] in CORE_FORBIDDEN
    ]
    assert broken == []


def test_producers_do_not_know_one_another() -> None:
    """The simulator and libvirt share the agent core and nothing else."""
    broken = [
        f"{path.relative_to(ROOT)} imports {name}"
        for package in ("simulator", "libvirt")
        for path in modules_below(f"producers/{package}")
        for name in imported_names(path)
        if name.startswith("producers.") and not name.startswith((f"producers.{package}", "producers.agent"))
    ]
    assert broken == []


@pytest.mark.parametrize("package", ["schemas", "producers", "streams", "sinks", "infra"])
def test_files_stay_readable(package: str) -> None:
    """No module above 400 lines, no function above 60: beyond that a second concept hides in it."""
    long_files = []
    long_functions = []
    for path in modules_below(package):
        text = path.read_text(encoding="utf-8")
        lines = text.count("\n")
        if lines > 400:
            long_files.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > 60:
                    long_functions.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines")
    assert long_files == []
    assert long_functions == []


def test_every_module_says_what_it_is() -> None:
    missing = [
        str(path.relative_to(ROOT))
        for package in ("schemas", "producers", "streams", "sinks", "infra")
        for path in modules_below(package)
        if path.read_text(encoding="utf-8").strip()
        and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert missing == []
