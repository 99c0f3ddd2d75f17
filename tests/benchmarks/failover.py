"""How long a killed part is missed: kill -9 of the vms worker, the hosts worker and the sink, under a steady load.

The time runs from the kill to the first thing that the part's successor gets done: a record in `vm.changes` for the
stages, a committed history row for the sink. The supervisor's delay is part of it. Rebalances are counted where they
happen, in the broker's log: a restart under a static name must make none.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from datetime import datetime
from statistics import median
from typing import Any

import msgspec
import psutil
from confluent_kafka import TopicPartition

from infra.runtime.kafka import make_consumer
from infra.runtime.topics import VM_CHANGES, VM_OBSERVATIONS
from infra.stack.stack import Stack
from tests.benchmarks.measured import line_on_its_own, result, say
from tests.e2e.line import WholeLine

RATE = float(os.environ.get("BENCH_RATE", "1000"))
KILLS = int(os.environ.get("BENCH_KILLS", "5"))
HOSTS, VMS = 20, 6_000
WARM_UP_SECONDS = 20.0
APART_SECONDS = 15.0
"""Between a successor's being ready and the next kill: longer than the group's session, so that a member that was not
replaced would show as a rebalance."""
DEADLINE_SECONDS = 60.0
IN_FLIGHT_SECONDS = 0.05
"""What was on its way to a server when its sender was killed may still be counted there so much later."""
PARTS = ("vms-1", "hosts-1", "postgres-1")
MILESTONES = ("http_listening", "service_ready", "partitions_assigned", "tables_loaded")

_REBALANCED = re.compile(r"Stabilized group (\S+) generation (\d+)")
_FIRST_COMMIT = """
SELECT extract(epoch FROM min(pg_xact_commit_timestamp(xmin)))::float8 AS at
FROM vm_change WHERE pg_xact_commit_timestamp(xmin) > to_timestamp(%s)
"""


def first_record(line: WholeLine, topic: str, since: float) -> float:
    """Time of the first record of a topic that was stamped at or after `since`, seconds."""
    consumer = make_consumer(line.kafka, group_id="failover", fetch_wait_max_ms=20)
    name, since_ms = line.topics.name(topic), int(since * 1000) + 1
    asked = [TopicPartition(name, partition, since_ms) for partition in range(line.options.topics.partitions)]
    try:
        found = [place for place in consumer.offsets_for_times(asked, timeout=10) if place.offset >= 0]
        consumer.assign(found)
        missing, stamps = {place.partition for place in found}, []
        deadline = time.monotonic() + 10
        while missing:
            assert time.monotonic() < deadline, f"{name} can not be read"
            for message in consumer.consume(1, 0.1):
                if message.error() is None and message.partition() in missing and message.timestamp()[1] >= since_ms:
                    missing.discard(message.partition())
                    stamps.append(message.timestamp()[1] / 1000)
        assert stamps, f"nothing in {name} since then"
        return float(min(stamps))
    finally:
        consumer.close()


def first_effect(line: WholeLine, part: str, killed_at: float) -> float:
    """When the successor of this part first got something done."""
    if part == "vms-1":
        # The stamps of changes are of the process that wrote them: a dead one sets none.
        return first_record(line, VM_CHANGES, killed_at)
    if part == "hosts-1":
        observed_at = first_record(line, VM_OBSERVATIONS, killed_at + IN_FLIGHT_SECONDS)
        return first_record(line, VM_CHANGES, observed_at)
    [row] = line.rows(_FIRST_COMMIT, killed_at + IN_FLIGHT_SECONDS)
    return float(row["at"])


def kill(line: WholeLine, part: str) -> dict[str, Any]:
    """Kill a part, and what became of it when its successor works."""
    pid = line.pid_of(part)
    killed_at = time.time()
    os.kill(pid, signal.SIGKILL)
    line.until(lambda: line.lives_again(part, pid), DEADLINE_SECONDS, f"another {part}")
    ready_at, spent = time.time(), psutil.Process(line.pid_of(part)).cpu_times()
    time.sleep(APART_SECONDS)
    milestones: dict[str, float] = {}
    for name, text in list(line.said):
        if name == part and text.startswith("{"):
            event = msgspec.json.decode(text)
            # Milestones of the successor: the dead process said its own before it was killed.
            if event["event"] in MILESTONES and (at := seconds_of(event["at"])) > killed_at:
                milestones.setdefault(event["event"], round(at - killed_at, 2))
    gap = first_effect(line, part, killed_at) - killed_at
    say(f"{part}: {gap:.2f} s, {milestones}")
    return {
        "seconds": round(gap, 2),
        "ready_seconds": round(ready_at - killed_at, 2),
        "milestones_seconds": milestones,
        "cpu_seconds_to_ready": round(spent.user + spent.system, 2),
        "load_average": round(os.getloadavg()[0], 2),
    }


def seconds_of(text: str) -> float:
    """Unix time of a log line's `at`."""
    return datetime.fromisoformat(text).timestamp()


def rebalances(stack: Stack) -> Counter[str]:
    """How often each group was formed anew, by the broker's log."""
    return Counter(found[1] for line in stack.logs("kafka", 1_000_000) if (found := _REBALANCED.search(line)))


def supervisor_delays(line: WholeLine) -> list[float]:
    """What the supervisor waited before each restart, as it said."""
    said = [text for name, text in line.said if name == "supervisor" and " again in " in text]
    return [float(text.split(" again in ")[1].split(" ")[0]) for text in said]


def main() -> None:
    """Run it and print the figures."""
    simulator = ("--hosts", str(HOSTS), "--vms", str(VMS), "--rate", str(RATE))
    with line_on_its_own("failover", simulator) as (line, stack):
        say(f"warming up for {WARM_UP_SECONDS:.0f} s")
        time.sleep(WARM_UP_SECONDS)
        before = rebalances(stack)
        kills = {part: [kill(line, part) for _ in range(KILLS)] for part in PARTS}
        formed_anew = rebalances(stack) - before
        delays = supervisor_delays(line)
    gaps = {part: [one["seconds"] for one in found] for part, found in kills.items()}
    result(
        "failover",
        {
            "vms_worker_median_seconds": median(gaps["vms-1"]),
            "vms_worker_worst_seconds": max(gaps["vms-1"]),
            "hosts_worker_median_seconds": median(gaps["hosts-1"]),
            "hosts_worker_worst_seconds": max(gaps["hosts-1"]),
            "cpu_seconds_to_ready": {
                part: median(one["cpu_seconds_to_ready"] for one in kills[part]) for part in PARTS
            },
            "sink_median_seconds": median(gaps["postgres-1"]),
            "sink_worst_seconds": max(gaps["postgres-1"]),
            "supervisor_delays_seconds": delays,
            "rebalances": sum(formed_anew.values()),
            "rebalances_by_group": dict(formed_anew),
            "changes_per_second": RATE,
            "kills": kills,
        },
    )


if __name__ == "__main__":
    main()
