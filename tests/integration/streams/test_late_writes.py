"""What a former owner still writes: nothing after it woke up, and what came late is written over by the new owner."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from infra.runtime.topics import HOSTS_TABLE, VM_OBSERVATIONS
from schemas.codec import SCHEMA_HEADER, decode, encode, header_of
from tests.integration.streams.counting import Counted, CountRow
from tests.integration.streams.fleet import Line

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(180)]


def test_nothing_of_a_frozen_worker_is_in_the_log_after_it_woke_up(line: Line) -> None:
    """The worker freezes in the midst of work, another takes over, and the first one ends itself when it wakes up."""
    old = line.start("1")
    line.wait_until_loaded("1")
    writer = threading.Thread(target=line.work, args=(6_000,), kwargs={"rate": 400})
    writer.start()
    time.sleep(1.5)
    old.send_signal(signal.SIGSTOP)
    frozen_at = time.time()
    line.start("2")
    line.wait_until_loaded("2", times=1)
    time.sleep(line.session_seconds)
    woken_at = time.time()
    old.send_signal(signal.SIGCONT)
    assert old.wait(20) == 71
    writer.join()
    line.wait_until_done()
    line.verify()
    late, by_new = 0, 0
    for message in line.read(VM_OBSERVATIONS):
        appended_at = message.timestamp()[1] / 1000
        output = decode(Counted, message.value() or b"", header_of(Counted))
        late += output.writer == old.pid and appended_at > woken_at
        by_new += output.writer != old.pid and frozen_at < appended_at
    assert by_new > 0
    assert late == 0


def test_rows_that_come_late_are_written_over(line: Line) -> None:
    """As a request of a dead owner would, rows come into the log after the table was loaded."""
    line.start()
    line.wait_until_loaded()
    line.write(0, [b"known"])
    line.write(0, [b"known"])
    line.producer.flush(10)
    line.wait_until_done()
    line.stop()
    line.start()
    line.wait_until_loaded(times=2)
    late = encode(CountRow(count=1, applied=-1))
    line.producer.produce(line.topic(HOSTS_TABLE), late, b"known", 0, headers=[(SCHEMA_HEADER, header_of(CountRow))])
    line.producer.flush(10)
    line.wait_for_log('"late_row"')
    line.write(0, [b"other"])
    line.producer.flush(10)
    line.wait_until_done()
    rows = [message for message in line.read(HOSTS_TABLE) if message.key() == b"known"][-3:]
    assert decode(CountRow, rows[-1].value() or b"", header_of(CountRow)).count == 2
    assert rows[-2].value() == late
    assert "writer" in {name for name, _ in rows[-1].headers() or ()}
    deadline = time.monotonic() + 20
    while "deltavisor_hosts_reasserted_rows_total 1.0" not in line.get("/metrics"):
        assert time.monotonic() < deadline, line.get("/metrics")
        time.sleep(0.2)
    # Once nothing can be on its way any more, rows are as small as before.
    time.sleep(2 * (line.session_seconds / 2 - 0.5) + 1)
    line.write(0, [b"known"])
    line.producer.flush(10)
    line.wait_until_done()
    last = [message for message in line.read(HOSTS_TABLE) if message.key() == b"known"][-1]
    assert {name for name, _ in last.headers() or ()} == {SCHEMA_HEADER}
    assert line.stop() == 0
