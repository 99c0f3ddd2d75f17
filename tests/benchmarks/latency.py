"""From an event on a host to the commit of its row, at a steady rate of changes, through the whole real line.

Event time is the simulator's wall clock at the happening, commit time PostgreSQL's own of the history row's
transaction (`track_commit_timestamp`), both on one machine.
"""

from __future__ import annotations

import os
import time

from infra.demo.measure import event_to_row
from tests.benchmarks.measured import CpuSeconds, line_on_its_own, result, say

RATE = float(os.environ.get("BENCH_RATE", "1000"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "60"))
WARM_UP_SECONDS = 40.0
"""Java compiles what is hot meanwhile; a line that has just been started is slower."""
HOSTS, VMS = 20, 6_000

_PARTS_OF_THE_WAY = """
SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY
           extract(epoch FROM detected_at - observed_at)::float8 * 1000) AS to_log_ms,
       percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY
           extract(epoch FROM pg_xact_commit_timestamp(xmin) - detected_at)::float8 * 1000) AS log_to_row_ms
FROM vm_change
WHERE observed_at >= to_timestamp(%s) AND observed_at < to_timestamp(%s)
  AND cause IN ('reported', 'handed_over', 'gone')
"""


def main() -> None:
    """Run it and print the figures."""
    simulator = ("--hosts", str(HOSTS), "--vms", str(VMS), "--rate", str(RATE))
    with line_on_its_own("latency", simulator) as (line, stack):
        say(f"warming up for {WARM_UP_SECONDS:.0f} s")
        time.sleep(WARM_UP_SECONDS)
        cpu = CpuSeconds(line, stack)
        since = time.time()
        say(f"measuring for {SECONDS:.0f} s")
        time.sleep(SECONDS)
        until = time.time()
        spent = cpu.since()
        time.sleep(3.0)
        with line.database() as reader:
            delay = event_to_row(reader, since, until)
            way = reader.execute(_PARTS_OF_THE_WAY, (since, until)).fetchone() or {}
    result(
        "latency",
        {
            "event_to_row_p50_ms": delay.p50_ms,
            "event_to_row_p99_ms": delay.p99_ms,
            "changes": delay.changes,
            "changes_per_second": round(delay.changes / (until - since), 1),
            "event_to_log_p50_p99_ms": way.get("to_log_ms"),
            "log_to_row_p50_p99_ms": way.get("log_to_row_ms"),
            "cpu_seconds": spent,
            "seconds": round(until - since, 1),
            "load_average": os.getloadavg()[0],
        },
    )


if __name__ == "__main__":
    main()
