"""The root of the command line: every command is listed without being imported; errors become one line and a code."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

from infra.cli import main as cli
from infra.runtime.errors import ConfigError, ExitCode, NeighbourUnreachable


def run(*arguments: str) -> int:
    """The exit code the command line ends with."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    code = caught.value.code
    return code if isinstance(code, int) else 0


@pytest.fixture
def fake_command(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module that stands in for the command `tail`."""
    module = types.ModuleType("infra.cli.fake_command")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(cli.COMMANDS, "tail", cli.CommandEntry(module.__name__, "Fake."))
    return module


def test_help_lists_every_command_and_imports_none() -> None:
    script = (
        "import sys\n"
        "from infra.cli.main import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "loaded = {'faust', 'psycopg', 'confluent_kafka', 'aiokafka', 'numpy'} & sys.modules.keys()\n"
        "print('loaded:', sorted(loaded))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "loaded: []" in done.stdout
    assert all(name in done.stdout for name in cli.COMMANDS)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("bad value", where="kafka.bootstrap", advice="mend it"), ExitCode.CONFIG),
        (NeighbourUnreachable("bad value", where="kafka.bootstrap", advice="mend it"), ExitCode.UNREACHABLE),
    ],
)
def test_an_error_of_ours_is_one_line_and_its_code(
    fake_command: types.ModuleType, capsys: pytest.CaptureFixture[str], error: Exception, code: ExitCode
) -> None:
    def command() -> None:
        raise error

    fake_command.command = command  # type: ignore[attr-defined]
    assert run("tail") == code
    assert capsys.readouterr().err == "deltavisor: kafka.bootstrap: bad value; mend it\n"


def test_an_interrupt_has_its_code(fake_command: types.ModuleType) -> None:
    def command() -> None:
        raise KeyboardInterrupt

    fake_command.command = command  # type: ignore[attr-defined]
    assert run("tail") == ExitCode.INTERRUPTED


def test_an_error_nobody_foresaw_keeps_its_traceback(fake_command: types.ModuleType) -> None:
    def command() -> None:
        raise ZeroDivisionError

    fake_command.command = command  # type: ignore[attr-defined]
    with pytest.raises(ZeroDivisionError):
        cli.main(["tail"])


@pytest.mark.parametrize("arguments", [["nonsense"], ["stack", "nonsense"], ["stack", "up", "--nonsense"]])
def test_a_wrong_command_line_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == ExitCode.USAGE
    assert "nonsense" in capsys.readouterr().err


def test_a_name_that_cannot_be_a_stack_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("stack", "status", "--name", "../x") == ExitCode.CONFIG
    assert "cannot name a stack" in capsys.readouterr().err
