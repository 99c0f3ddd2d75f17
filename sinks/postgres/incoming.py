"""A message of vm.changes or host.changes as the sink needs it: decoded, every facet typed, with its position."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec

from infra.runtime.errors import NewerVersion, TooManyBad
from schemas.change import FacetChange
from schemas.codec import NewerMajorError, RecordError, decode
from schemas.facets import HOST_FACETS, VM_FACETS
from schemas.host_change import HostChange
from schemas.vm_change import VmChange

Change = VmChange | HostChange


class TypedFacetChange(msgspec.Struct, frozen=True, gc=False):
    """A facet change with its facet decoded; of a facet this version does not know, the plain map."""

    before: dict[str, Any] | None
    after: Any
    changed: list[str]


class Incoming(msgspec.Struct, frozen=True, gc=False):
    """One change and where it stands in the log."""

    partition: int
    offset: int
    subject_id: str
    change: Change
    facets: dict[str, TypedFacetChange]


_FACETS: Mapping[str, type[msgspec.Struct]] = {
    **{facet.value: kind for facet, kind in VM_FACETS.items()},
    **{facet.value: kind for facet, kind in HOST_FACETS.items()},
}


@cache
def _facet_decoder(name: str) -> msgspec.msgpack.Decoder[Any]:
    kind = _FACETS.get(name)
    return msgspec.msgpack.Decoder(kind) if kind is not None else msgspec.msgpack.Decoder()


def typed_facet(name: str, value: bytes | msgspec.Raw) -> Any:
    """The facet in these bytes; of one that this version does not know, the plain map. Raises msgspec.DecodeError."""
    return _facet_decoder(name if name in _FACETS else "").decode(value)


def _typed(name: str, change: FacetChange) -> TypedFacetChange:
    after = None if change.cleared else typed_facet(name, change.after)
    return TypedFacetChange(change.before, after, change.changed)


def read_change(
    kind: type[VmChange] | type[HostChange],
    value: bytes,
    header: bytes | None,
    *,
    topic: str,
    partition: int,
    offset: int,
) -> Incoming:
    """The change in these bytes.

    Raises NewerVersion for another schema major, TooManyBad for bytes that are no change: until bad records are
    dead-lettered, the first one is one too many, and nothing of its batch is written.
    """
    try:
        change: Change = decode(kind, value, header)
        facets = {name: _typed(name, facet) for name, facet in change.facets.items()}
    except NewerMajorError as error:
        raise NewerVersion(
            str(error), where=f"{topic}[{partition}]@{offset}", advice="upgrade this program, then start it again"
        ) from error
    except (RecordError, msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise bad_record(str(error), topic, partition, offset) from error
    subject_id = change.vm_id if isinstance(change, VmChange) else change.host_id
    return Incoming(partition, offset, subject_id, change, facets)


def bad_record(reason: str, topic: str, partition: int, offset: int) -> TooManyBad:
    """The error for a record that can not be stored."""
    return TooManyBad(
        f"this record can not be stored: {reason}",
        where=f"{topic}[{partition}]@{offset}",
        advice="nothing of its batch was written; find out who wrote it, mend the writer, then start the sink again",
    )
