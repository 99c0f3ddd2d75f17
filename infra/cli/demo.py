"""`deltavisor demo`: a simulated fleet on the real line for a minute, shown, measured and checked."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from infra.cli.progress import Progress
from infra.cli.status import PARTS_FILE
from infra.cli.up import SETTINGS_FILE, libvirt_answers, stop_on_signals
from infra.demo.run import Demonstration, Plan, Summary
from infra.demo.screen import Screen
from infra.stack.layout import StackPaths
from infra.stack.stack import Stack
from infra.supervisor.line import LineOptions, parts_of, write_settings
from infra.supervisor.lines import LineWriter
from infra.supervisor.prepare import prepare
from infra.supervisor.running import RunningLine

STACK = "demo"
DEFAULT_SECONDS = 60.0


def command(
    seconds: Annotated[
        float, typer.Option("--seconds", envvar="DEMO_SECONDS", min=30, max=3600, help="How long to show it.")
    ] = DEFAULT_SECONDS,
    hosts: Annotated[int, typer.Option("--hosts", min=1)] = 20,
    vms: Annotated[int, typer.Option("--vms", min=1)] = 6_000,
    rate: Annotated[float, typer.Option("--rate", min=1, help="Happenings a second while there is life.")] = 100.0,
) -> None:
    """Show a simulated fleet live, check that fleet, topics and tables agree, stop everything.

    Starts servers of its own in the stack called demo, with empty data. In the middle the fleet stands still, and the
    rows written meanwhile are counted: none are allowed. Writes summary.json into the stack's directory, prints it
    last, and ends with 0 if everything agreed, 1 if not.
    """
    console = Console(stderr=True)
    stop = stop_on_signals()
    servers = Stack(STACK)
    with ExitStack() as cleanup:
        progress = Progress(console)
        servers.reset()
        endpoints = servers.up(progress.report)
        cleanup.callback(servers.down)
        root = StackPaths.of(STACK).root
        plan, truth_file = Plan.of(seconds), root / "truth.json"
        options = _options(hosts, vms, rate, plan, truth_file)
        prepare(endpoints, options, lambda said: progress.report("line", said))
        log_path = root / "logs" / "parts.log"
        log = cleanup.enter_context(log_path.open("w", encoding="utf-8"))
        parts = parts_of(write_settings(root / SETTINGS_FILE, endpoints, options), options)
        progress.report("line", f"starting {', '.join(part.name for part in parts)}; their words are in {log_path}")
        line = cleanup.enter_context(RunningLine(parts, LineWriter(log), states_file=root / PARTS_FILE))
        demonstration = Demonstration(STACK, endpoints, options, line, truth_file, plan, stop.is_set)
        with Screen(console) as screen:
            summary = demonstration.run(screen)
    _tell(summary, root / "summary.json", console)
    raise typer.Exit(0 if summary.ok else 1)


def _options(hosts: int, vms: int, rate: float, plan: Plan, truth_file: Path) -> LineOptions:
    simulator = ("--hosts", str(hosts), "--vms", str(vms), "--rate", str(rate))
    return LineOptions(
        simulator=(*simulator, "--life", plan.life, "--truth-file", str(truth_file)),
        libvirt=() if libvirt_answers() else None,
    )


def _tell(summary: Summary, path: Path, console: Console) -> None:
    text = msgspec.json.format(msgspec.json.encode(summary))
    path.write_bytes(text + b"\n")
    for disagreement in summary.disagreements:
        console.print(f"[red]disagreement[/red] {disagreement}")
    console.print(f"written to {path}")
    sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
