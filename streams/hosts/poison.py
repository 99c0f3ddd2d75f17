"""Inputs that the hosts stage can not apply: the report of one host is put aside, and that host has to say all again.

A report is tried with everything it touches remembered; when it raises, or makes a record too large for its topic, all
is put back and the host is unconfirmed until its forced snapshot came. A tick that raises is applied without the host
that was about to be judged. No other host notices.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

from schemas.codec import NewerMajorError
from schemas.tick import TICK_KEY
from streams.hosts.state import NEVER, Host
from streams.hosts.undo import Undo
from streams.runtime.stage import Batch, Demand, Fits, Input, Marks

if TYPE_CHECKING:
    from streams.hosts.core import HostsCore


class Fault(NamedTuple):
    """Why an input could not be applied."""

    reason: str
    """`poison`: it raised. `crash`: it ended processes. `too_large`: a record of it does not fit into its topic."""
    error: str


class _TooLarge(Exception):
    """A record does not fit; the text says which."""


def isolate(core: HostsCore, record: Input, condemned: Collection[bytes], fits: Fits, before: Marks) -> Demand:
    """See `PartitionCore.isolate`. A report has one part, the whole of it, under its key; a tick likewise."""
    if condemned:
        return _put_aside(core, record, Fault("crash", "applying it ended processes"))
    before([record.key or b"-"])
    fault = _try(core, record, fits)
    if fault is None:
        return core.take(record)
    if record.key == TICK_KEY:
        return _judge_without(core, record, fits, fault)
    return _put_aside(core, record, fault)


def apply_with_care(core: HostsCore, record: Input) -> Demand:
    """Apply what a host says of which something could not be applied; over with the snapshot that it was asked for."""
    core.suspects.discard(record.key)
    demand = isolate(core, record, (), lambda topic, size: True, lambda names: None)
    host = host_of(core, record)
    if host is not None and host.row.resync is not None:
        core.suspects.add(record.key)
    return demand


def host_of(core: HostsCore, record: Input) -> Host | None:
    """The host whose key the record has."""
    return next((host for host in core.hosts.values() if host.key == record.key), None)


def _touched(core: HostsCore, record: Input) -> list[Host]:
    if record.key == TICK_KEY:
        return list(core.hosts.values())
    host = host_of(core, record)
    return [] if host is None else [host]


def _try(core: HostsCore, record: Input, fits: Fits) -> Fault | None:
    """What is wrong with the input; the core is as before, whatever it is."""
    undo = Undo(core, _touched(core, record))
    try:
        core.take(record)
        _check_size(core, core.draft(), fits)  # rows of other hosts are not put back, so none may be marked
    except (MemoryError, NewerMajorError):
        raise
    except _TooLarge as problem:
        return Fault("too_large", str(problem))
    except Exception as problem:
        return Fault("poison", f"{type(problem).__name__}: {problem}")
    finally:
        undo.restore()
    return None


def _check_size(core: HostsCore, batch: Batch, fits: Fits) -> None:
    records = [(output.topic, output.key, output.value) for output in batch.outputs]
    records += [(core.table_topic, row.key, row.value) for row in batch.rows]
    for topic, key, value in records:
        size = len(key or b"") + len(value or b"")
        if not fits(topic, size):
            raise _TooLarge(f"a record of {size} bytes for {topic} under {(key or b'').decode('ascii', 'replace')}")


def _judge_without(core: HostsCore, record: Input, fits: Fits, fault: Fault) -> Demand:
    """Apply a tick; hosts that can not be judged by it are left out, and asked for all they know."""
    due = [host for host in core.hosts.values() if host.due_tick <= core.expected_tick]
    wrong = []
    for host in due:
        undo = Undo(core, core.hosts.values())
        _leave_out([other for other in due if other is not host])
        if _try(core, record, fits) is not None:
            wrong.append(host)
        undo.restore()
    _leave_out(wrong)
    if not wrong or _try(core, record, fits) is not None:
        return _put_aside(core, record, fault)
    demand = core.take(record)
    core.put_aside(record, fault.reason, fault.error)
    for host in wrong:
        core.distrust(host, record.offset, "quarantine")
    return demand


def _leave_out(hosts: list[Host]) -> None:
    for host in hosts:
        host.due_tick = NEVER


def _put_aside(core: HostsCore, record: Input, fault: Fault) -> Demand:
    """The input is a dead letter; whoever it is of is unconfirmed and asked to say everything again."""
    core.put_aside(record, fault.reason, fault.error)
    core.suspects.add(record.key)
    host = host_of(core, record)
    if host is not None:
        undo = Undo(core, [host])
        try:
            core.distrust(host, record.offset, "quarantine")
        except MemoryError:
            raise
        except Exception:
            undo.restore()
    core.skip(record)
    return Demand(4, urgent=True)
