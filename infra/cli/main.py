"""The root of the command line: which commands there are, and what an error ends with.

A command's module is imported only when that command is called, so that `deltavisor --help` is immediate
whatever Faust or the database driver take to load. Such a module `infra/cli/<name>.py` exports either
``app`` (a typer.Typer with commands of its own) or ``command`` (one function).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import typer

from infra.runtime.errors import DeltavisorError, ExitCode


class CommandEntry(NamedTuple):
    """A command before its module is imported."""

    module: str
    summary: str


COMMANDS: dict[str, CommandEntry] = {
    "up": CommandEntry("infra.cli.up", "Run all parts in the foreground, supervised."),
    "demo": CommandEntry("infra.cli.demo", "Show a simulated fleet live, check the outcome, stop."),
    "status": CommandEntry("infra.cli.status", "Say how the parts and the servers are."),
    "vm": CommandEntry("infra.cli.vm", "Show, list and look back at virtual machines."),
    "tail": CommandEntry("infra.cli.tail", "Print the records of a topic as they come, decoded."),
    "dlq": CommandEntry("infra.cli.dlq", "Look at dead letters, and try them again."),
    "stack": CommandEntry("infra.cli.stack", "Start, stop and look at the embedded servers."),
    "topics": CommandEntry("infra.cli.topics", "Create, check and adopt the Kafka topics."),
    "state": CommandEntry("infra.cli.state", "Dump the tables of the stages, or show a dump."),
    "rebuild": CommandEntry("infra.cli.rebuild", "Build the tables again after Kafka was lost."),
    "resync": CommandEntry("infra.cli.resync", "Have hosts say everything they know again."),
    "republish": CommandEntry("infra.cli.republish", "Have VMs written to vm.state again."),
    "db": CommandEntry("infra.cli.db", "Migrate the database, or check it."),
    "agent": CommandEntry("infra.cli.agent", "Run one host agent."),
    "stream": CommandEntry("infra.cli.stream", "Run one stream stage, or roll one back."),
    "sink": CommandEntry("infra.cli.sink", "Run one sink."),
}
"""In the order `--help` lists them."""

_EPILOG = (
    "Exit codes: 0 done, 2 wrong usage, 64 bad configuration, 69 a server does not answer, 70 internal, "
    "71 fenced itself, 72 stuck, 73 offset missing, 74 newer records met, 75 topics differ, "
    "76 database refused, 77 too many bad records, 130 interrupted."
)


def build(called: str | None) -> typer.Typer:
    """Return the command line with the module of one command loaded, and the others known by name."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback(epilog=_EPILOG)(_root)
    for name, entry in COMMANDS.items():
        if name != called:
            app.command(name, help=entry.summary)(_not_called)
            continue
        module = importlib.import_module(entry.module)
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name, short_help=entry.summary)
        else:
            app.command(name, short_help=entry.summary)(module.command)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with the exit code that `ExitCode` documents.

    What we raise on purpose becomes one line on standard error; anything else is a bug and keeps its traceback.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    called = given[0] if given and given[0] in COMMANDS else None
    try:
        build(called)(given, prog_name="deltavisor")
    except DeltavisorError as error:
        print(f"deltavisor: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"deltavisor {importlib.metadata.version('deltavisor')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Watch every virtual machine of a fleet, and write down only what changed."""


def _not_called() -> None:
    """Stands for a command in the list; the one that is called is always the real one."""


if __name__ == "__main__":
    main()
