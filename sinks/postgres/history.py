"""History rows in binary COPY format: one per change, packed in the order of `VM_CHANGE_COLUMNS`. Pure."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from functools import lru_cache, reduce
from operator import or_
from struct import Struct
from typing import cast

import msgspec

from schemas.change import Availability, Exit
from schemas.host_change import HostChange
from schemas.vm_change import VmChange
from sinks.postgres.binary import (
    NULL,
    copy_data,
    int8_field,
    json_field,
    micros,
    signed,
    text_field,
    uuid_field,
    uuid_raw,
    words_field,
)
from sinks.postgres.columns import FACET_BITS, HOST_CHANGE_COLUMNS, VM_CHANGE_COLUMNS
from sinks.postgres.heads import near_uuid_field, word_field
from sinks.postgres.incoming import Incoming

_encode_json = msgspec.json.Encoder().encode

_vm_numbers = Struct(">h i16s iq iq iq iq iq iq iq iq iq iq ii ii ih".replace(" ", "")).pack
_host_numbers = Struct(">h i16s iq iq iq iq iq iq iq iq iq ii ii ih iB iB i16s i16s i16s".replace(" ", "")).pack
_NO_EXIT = NULL * 3

_DAY_NS = 86_400_000_000_000


def vm_history(items: Sequence[Incoming]) -> bytes:
    """COPY stream for vm_change."""
    return copy_data([_vm_row(item, cast(VmChange, item.change)) for item in items])


def host_history(items: Sequence[Incoming]) -> bytes:
    """COPY stream for host_change."""
    return copy_data([_host_row(item, cast(HostChange, item.change)) for item in items])


def days_of(items: Sequence[Incoming]) -> frozenset[date]:
    """UTC days of these changes: the partitions that the history needs."""
    days = {item.change.detected_at // _DAY_NS for item in items}
    return frozenset(datetime.fromtimestamp(day * 86_400, UTC).date() for day in days)


def _mask(item: Incoming) -> int:
    return reduce(or_, (FACET_BITS.get(name, 0) for name in item.facets), 0)


@lru_cache(maxsize=4096)
def _belief(state: str, reason: str | None, reasons: tuple[str, ...]) -> bytes:
    return word_field(state) + word_field(reason) + words_field(reasons)


def _believed(availability: Availability) -> bytes:
    return _belief(availability.state, availability.reason, tuple(availability.reasons))


def _ended(end: Exit | None) -> bytes:
    if end is None:
        return _NO_EXIT
    return word_field(end.status) + word_field(end.reason) + text_field(end.message)


def _vm_row(item: Incoming, change: VmChange) -> bytes:
    evidence = change.evidence
    # Each value stands behind its length.
    # fmt: off
    fixed = _vm_numbers(
        len(VM_CHANGE_COLUMNS),
        16, uuid_raw(change.vm_id),
        8, change.incarnation,
        8, change.version,
        8, micros(change.detected_at),
        8, micros(change.observed_at),
        8, micros(change.availability.since),
        8, change.ownership_epoch,
        8, signed(change.previous_digest),
        8, signed(change.state_digest),
        8, evidence.log,
        8, evidence.offset,
        4, evidence.partition,
        4, change.rules_version,
        2, _mask(item),
    )
    # fmt: on
    return b"".join(
        (
            fixed,
            word_field(change.cause),
            word_field(change.status),
            _believed(change.availability),
            near_uuid_field(change.host_id),
            uuid_field(change.run_id),
            _ended(change.exit),
            word_field(evidence.topic),
            near_uuid_field(evidence.host),
            near_uuid_field(evidence.boot),
            int8_field(evidence.seq),
            int8_field(evidence.tick),
            text_field(change.intent_id),
            json_field(_encode_json(item.facets)),
            NULL if change.managed is None else json_field(_encode_json(change.managed)),
        )
    )


def _host_row(item: Incoming, change: HostChange) -> bytes:
    evidence = change.evidence
    found = change.reachability
    # Each value stands behind its length.
    # fmt: off
    fixed = _host_numbers(
        len(HOST_CHANGE_COLUMNS),
        16, uuid_raw(change.host_id),
        8, change.incarnation,
        8, change.version,
        8, micros(change.detected_at),
        8, micros(change.observed_at),
        8, micros(found.since),
        8, signed(change.previous_digest),
        8, signed(change.state_digest),
        8, evidence.log,
        8, evidence.offset,
        4, evidence.partition,
        4, change.rules_version,
        2, _mask(item),
        1, found.mass,
        1, change.confirmed,
        16, uuid_raw(change.machine_id),
        16, uuid_raw(change.boot_id),
        16, uuid_raw(change.agent_epoch),
    )
    # fmt: on
    return b"".join(
        (
            fixed,
            word_field(change.cause),
            word_field(found.state),
            text_field(found.reason),
            words_field(change.flags),
            word_field(evidence.topic),
            near_uuid_field(evidence.host),
            near_uuid_field(evidence.boot),
            int8_field(evidence.seq),
            int8_field(evidence.tick),
            json_field(_encode_json(item.facets)),
        )
    )
