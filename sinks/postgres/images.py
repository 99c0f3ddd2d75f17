"""Whole states of VMs and hosts, read from vm.state and host.state: what a row becomes where changes are missing.

The slow path of a disaster: it reads a partition of the state topic from its start, which takes seconds where a VM has
thousands of rows in it. A head counts together with the facet rows that it names; without one of them it is not used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

import confluent_kafka
import msgspec

from infra.runtime.errors import NewerVersion, TransientError
from infra.runtime.kafka import make_consumer, unreachable
from infra.runtime.settings import KafkaSettings
from infra.runtime.topics import HOST_STATE, VM_STATE
from schemas.change import Cause, Evidence, change_id
from schemas.codec import NewerMajorError, RecordError, decode, schema_in
from schemas.host_change import HostChange, HostState
from schemas.vm_change import VmChange
from schemas.vm_state import VmFacet, VmHead
from sinks.postgres.incoming import Incoming, TypedFacetChange, typed_facet

NO_RULES = 0
"""`rules_version` of a change that no rule made."""

_ID_CHARACTERS = 36
_REQUEST_SECONDS = 10.0
_CONSUME_RECORDS = 10_000
_CONSUME_SECONDS = 0.1
_SILENCE_SECONDS = 15.0

_Order = tuple[int, int, int]


class ImageSource(Protocol):
    """What the writer needs to close holes."""

    def vms(self, partition: int, wanted: Collection[str] | None = None) -> Mapping[str, Incoming]:
        """Whole states of the VMs of a partition, as changes of cause `repaired`; of those wanted, or all."""
        ...

    def hosts(self, partition: int, wanted: Collection[str] | None = None) -> Mapping[str, Incoming]:
        """The same of hosts."""
        ...


class StateImages:
    """Reads the state topics. Each call reads its partition anew; raises TransientError, NewerVersion."""

    def __init__(self, kafka: KafkaSettings, *, group: str) -> None:
        self._kafka = kafka
        self._group = group

    def vms(self, partition: int, wanted: Collection[str] | None = None) -> dict[str, Incoming]:
        """See ImageSource."""
        gathering = VmImages()
        for message in self._messages(VM_STATE, partition):
            key = (message.key() or b"").decode("ascii", "replace")
            if wanted is None or key[:_ID_CHARACTERS] in wanted:
                gathering.add(key, message.value(), schema_in(message.headers()), int(message.offset() or 0))
        return gathering.images(partition)

    def hosts(self, partition: int, wanted: Collection[str] | None = None) -> dict[str, Incoming]:
        """See ImageSource."""
        newest: dict[str, tuple[HostState, int]] = {}
        for message in self._messages(HOST_STATE, partition):
            value = message.value()
            key = (message.key() or b"").decode("ascii", "replace")
            if value is None or (wanted is not None and key not in wanted):
                continue
            state = decode(HostState, value, schema_in(message.headers()))
            known = newest.get(key)
            if known is None or (state.incarnation, state.version) >= (known[0].incarnation, known[0].version):
                newest[key] = state, int(message.offset() or 0)
        return {key: _host_image(state, partition, offset) for key, (state, offset) in newest.items()}

    def _messages(self, topic: str, partition: int) -> Iterator[Any]:
        """Every message of the partition, up to the end it has now."""
        where = f"{self._kafka.topic_prefix}{topic}[{partition}]"
        consumer = make_consumer(self._kafka, group_id=f"{self._group}-images", fetch_wait_max_ms=20)
        place = confluent_kafka.TopicPartition(self._kafka.topic_prefix + topic, partition)
        try:
            low, high = consumer.get_watermark_offsets(place, timeout=_REQUEST_SECONDS)
            place.offset = low
            if low < high:
                consumer.assign([place])
                yield from _read(consumer, place, high, where)
        except confluent_kafka.KafkaException as error:
            raise unreachable(self._kafka, error) from error
        except NewerMajorError as newer:
            raise NewerVersion(str(newer), where=where, advice="upgrade this program, then start it again") from newer
        except (RecordError, msgspec.DecodeError) as problem:
            raise TransientError(f"a state can not be read: {problem}", where=where) from problem
        finally:
            consumer.close()


def _read(consumer: Any, place: confluent_kafka.TopicPartition, end: int, where: str) -> Iterator[Any]:
    silent_seconds = 0.0
    while consumer.position([place])[0].offset < end:
        messages = consumer.consume(_CONSUME_RECORDS, _CONSUME_SECONDS)
        silent_seconds = 0.0 if messages else silent_seconds + _CONSUME_SECONDS
        if silent_seconds > _SILENCE_SECONDS:
            raise TransientError(f"no record for {_SILENCE_SECONDS:.0f} s before the end", where=where)
        for message in messages:
            if message.error() is not None:
                raise TransientError(f"reading failed: {message.error().str()}", where=where)
            if message.offset() < end:
                yield message


class VmImages:
    """Rows of vm.state in log order become whole states. Pure."""

    def __init__(self) -> None:
        self._heads: dict[str, tuple[VmHead, int]] = {}
        self._facets: dict[str, dict[bytes, tuple[_Order, bytes]]] = {}
        """By key: fingerprint -> order and value; nearly always one."""

    def add(self, key: str, value: bytes | None, header: bytes | None, offset: int) -> None:
        """Take one row. Raises RecordError, NewerMajorError."""
        if key.startswith("#"):
            return
        if len(key) > _ID_CHARACTERS:
            self._add_facet(key, value, header)
        elif value is None:
            self._heads.pop(key, None)
        else:
            head = decode(VmHead, value, header)
            known = self._heads.get(key)
            if known is None or _order(head) >= _order(known[0]):
                self._heads[key] = head, offset

    def _add_facet(self, key: str, value: bytes | None, header: bytes | None) -> None:
        if value is None:
            self._facets.pop(key, None)
            return
        facet = decode(VmFacet, value, header)
        order = facet.incarnation, facet.version, facet.applied
        kept = self._facets.setdefault(key, {})
        known = kept.get(facet.fingerprint)
        if known is None or order < known[0]:
            kept[facet.fingerprint] = order, facet.value

    def images(self, partition: int) -> dict[str, Incoming]:
        """The whole states, by VM; of heads whose facet rows are all there."""
        found = {}
        for vm_id, (head, offset) in self._heads.items():
            facets = self._facets_of(head)
            if facets is not None:
                found[vm_id] = _vm_image(head, facets, partition, offset)
        return found

    def _facets_of(self, head: VmHead) -> dict[str, TypedFacetChange] | None:
        facets = {}
        for name, fingerprint in head.facets.items():
            row = self._facets.get(f"{head.vm_id}/{head.host_id}/{name}", {}).get(fingerprint)
            if row is None or row[0] > _order(head):
                return None
            facets[name] = _whole(name, row[1])
        return facets


def _order(head: VmHead) -> _Order:
    return head.incarnation, head.version, head.applied


def _whole(name: str, value: bytes) -> TypedFacetChange:
    fields = msgspec.msgpack.decode(value)
    return TypedFacetChange(None, typed_facet(name, value), list(fields) if isinstance(fields, dict) else [])


def _evidence(topic: str, partition: int, offset: int) -> Evidence:
    return Evidence(topic=topic, log=0, partition=partition, offset=offset, host=None, boot=None, seq=None)


def _vm_image(head: VmHead, facets: dict[str, TypedFacetChange], partition: int, offset: int) -> Incoming:
    change = VmChange(
        vm_id=head.vm_id,
        incarnation=head.incarnation,
        version=head.version,
        change_id=change_id(head.vm_id, head.incarnation, head.version),
        observed_at=head.observed_at,
        detected_at=head.detected_at,
        cause=Cause.REPAIRED,
        status=head.status,
        availability=head.availability,
        host_id=head.host_id,
        ownership_epoch=head.ownership_epoch,
        run_id=head.run_id,
        exit=head.exit,
        facets={},
        managed=head.managed or None,
        previous_digest=0,
        state_digest=head.digest,
        evidence=_evidence(VM_STATE, partition, offset),
        rules_version=NO_RULES,
    )
    return Incoming(partition, offset, head.vm_id, change, facets)


def _host_image(state: HostState, partition: int, offset: int) -> Incoming:
    change = HostChange(
        host_id=state.host_id,
        incarnation=state.incarnation,
        version=state.version,
        change_id=change_id(state.host_id, state.incarnation, state.version),
        observed_at=state.last_report_at,
        detected_at=state.detected_at,
        cause=Cause.REPAIRED,
        reachability=state.reachability,
        confirmed=state.confirmed,
        flags=state.flags,
        machine_id=state.machine_id,
        boot_id=state.boot_id,
        agent_epoch=state.agent_epoch,
        facets={},
        previous_digest=0,
        state_digest=state.state_digest,
        evidence=_evidence(HOST_STATE, partition, offset),
        rules_version=NO_RULES,
    )
    facets = {name: _whole(name, bytes(value)) for name, value in state.facets.items()}
    return Incoming(partition, offset, state.host_id, change, facets)
