"""The same job without any rules: what a plain program, or another framework, does with the vms stage's input.

Per facet that differs from the one in a dict: a change to `vm.changes` (key: VM, value: facet before and after) and a
row to `vm.state` (key: VM and facet). No owner, no clock, no conflict, no head, no repair; and no order of commits
that would survive a crash, unless the framework brings one. Runs alone, with only msgspec and its Kafka client:

    python vms_peer.py {confluent|quix} BOOTSTRAP PREFIX
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import msgspec

decode = msgspec.msgpack.Decoder().decode
encode = msgspec.msgpack.Encoder().encode
IDLE_SECONDS = 0.2
COMMIT_SECONDS = 0.25
"""As often as the stage acknowledges."""


def facets_in(value: bytes) -> Iterator[tuple[bytes, str, bytes]]:
    """VM, name and bytes of every facet in an ObservationBatch."""
    for report in decode(value)[5]:
        for observation in report[7]:
            for name, data in observation[1].items():
                yield observation[0], name, data


def difference(table: dict[tuple[bytes, str], Any], vm: bytes, name: str, data: bytes) -> bytes | None:
    """The change as it is published, or None; `table` knows the facet then."""
    facet = decode(data)
    before = table.get((vm, name))
    if facet == before:
        return None
    table[vm, name] = facet
    left = before or {}
    changed = [field for field, now in facet.items() if left.get(field) != now]
    return encode({"vm": vm.hex(), "facet": name, "before": before, "after": facet, "changed": changed})


def confluent(bootstrap: str, prefix: str) -> None:
    """confluent-kafka and a dict: poll, compare, produce, flush, commit."""
    from confluent_kafka import Consumer, Producer

    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"{prefix}confluent",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "queue.buffering.max.messages": 500_000,
            "compression.type": "lz4",
        }
    )
    consumer.subscribe([f"{prefix}vm.observations"])
    table: dict[tuple[bytes, str], Any] = {}
    while True:
        messages = consumer.consume(50, IDLE_SECONDS)
        for message in messages:
            partition = message.partition()
            for vm, name, data in facets_in(message.value() or b""):
                change = difference(table, vm, name, data)
                if change is not None:
                    key = vm.hex().encode()
                    producer.produce(f"{prefix}vm.changes", change, key, partition)
                    producer.produce(f"{prefix}vm.state", data, key + b"/" + name.encode(), partition)
        if messages:
            if producer.flush(30):
                raise SystemExit("not delivered")
            consumer.commit(asynchronous=False)


def quix(bootstrap: str, prefix: str) -> None:
    """Quix Streams: the facets of a batch as messages of their own by VM, state in its RocksDB with its changelog."""
    from quixstreams import Application  # type: ignore[import-not-found]  # in its own environment

    application = Application(
        broker_address=bootstrap,
        consumer_group=f"{prefix}quix",
        auto_offset_reset="earliest",
        commit_interval=COMMIT_SECONDS,
        state_dir=sys.argv[4],
        loglevel="WARNING",
    )
    source = application.topic(f"{prefix}vm.observations", value_deserializer="bytes", key_deserializer="bytes")
    target = application.topic(f"{prefix}vm.changes", value_serializer="bytes", key_serializer="bytes")

    def changes(value: bytes, state: Any) -> list[bytes]:
        found = []
        for vm, name, data in facets_in(value):
            place = f"{vm.hex()}/{name}"
            known = state.get_bytes(place)
            if known == data:
                continue
            change = difference({(vm, name): decode(known)} if known is not None else {}, vm, name, data)
            state.set_bytes(place, data)
            if change is not None:
                found.append(change)
        return found

    stream = application.dataframe(source)
    stream = stream.apply(changes, stateful=True, expand=True)
    stream.to_topic(target)
    application.run()


if __name__ == "__main__":
    {"confluent": confluent, "quix": quix}[sys.argv[1]](sys.argv[2], sys.argv[3])
