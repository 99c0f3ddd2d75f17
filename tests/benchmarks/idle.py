"""What a stable fleet costs: 6,000 VMs that do nothing, agents that go on reporting.

Rows written are PostgreSQL's own counts; statements are read from its log, to which every statement of every session
goes during the measurement.
"""

from __future__ import annotations

import os
import time

from infra.demo.measure import STATISTICS_SETTLE_SECONDS, rows_written
from infra.stack.stack import Stack
from tests.benchmarks.measured import CpuSeconds, line_on_its_own, result, say

SECONDS = float(os.environ.get("BENCH_SECONDS", "300"))
HOSTS, VMS = 20, 6_000


def statements(stack: Stack, marker: str) -> dict[str, int]:
    """Statements in PostgreSQL's log since the marker, by their first word. ValueError when the marker is not there."""
    counts: dict[str, int] = {}
    lines = stack.logs("postgres", 1_000_000)
    begin = max(number for number, line in enumerate(lines) if marker in line)
    for line in lines[begin + 1 :]:
        for sign in ("statement: ", "execute "):
            if f"LOG:  {sign}" in line:
                text = line.split(f"LOG:  {sign}", 1)[1]
                words = (text.split(": ", 1)[-1] if sign == "execute " else text).split()
                word = words[0].upper() if words else "?"
                counts[word] = counts.get(word, 0) + 1
    return counts


def main() -> None:
    """Run it and print the figures."""
    simulator = ("--hosts", str(HOSTS), "--vms", str(VMS), "--rate", "0")
    with line_on_its_own("idle", simulator) as (line, stack):
        say("waiting for the fleet's first snapshot to arrive")
        line.until(lambda: line.rows("SELECT count(*) AS n FROM vm")[0]["n"] == VMS, 120.0, "every VM stored")
        line.settle()
        with line.database() as reader:
            reader.execute("ALTER SYSTEM SET log_statement = 'all'")
            reader.execute("SELECT pg_reload_conf()")
        time.sleep(STATISTICS_SETTLE_SECONDS + 4.0)
        # Asking the servers for their CPU time asks PostgreSQL whether it is well: outside of what is counted.
        cpu = CpuSeconds(line, stack)
        with line.database() as reader:
            before = rows_written(reader)
            control = f"control-{os.getpid()}"
            reader.execute(f"DO $$ BEGIN RAISE LOG '{control}'; END $$".encode())
            reader.execute(b"SELECT 1")
            reader.execute(b"SELECT %s", (2,))
            seen = statements(stack, control).get("SELECT", 0)
            assert seen == 2, f"two SELECTs were made, the log shows {seen}: it can not prove that there were none"
            marker = f"idle-{os.getpid()}-begins"
            reader.execute(f"DO $$ BEGIN RAISE LOG '{marker}'; END $$".encode())
        say(f"measuring for {SECONDS:.0f} s")
        time.sleep(SECONDS)
        by_kind = statements(stack, marker)
        spent = cpu.since()
        with line.database() as reader:
            written = rows_written(reader) - before
    result(
        "idle",
        {
            "vms": VMS,
            "hosts": HOSTS,
            "rows_written": written,
            "selects": by_kind.get("SELECT", 0),
            "statements": by_kind,
            "cpu_seconds": spent,
            "cpu_percent_of_one_core": {name: round(100 * value / SECONDS, 2) for name, value in spent.items()},
            "seconds": SECONDS,
        },
    )


if __name__ == "__main__":
    main()
