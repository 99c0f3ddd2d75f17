"""`deltavisor tail TOPIC`: a topic's records, decoded, as they come."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import confluent_kafka
import typer

from infra.cli.connect import Bootstrap, ConfigFile, StackName, reader_settings
from infra.cli.describe import as_json, clock, describe
from infra.runtime.errors import ConfigError, NeighbourUnreachable
from infra.runtime.kafka import make_consumer, unreachable, wait_for_kafka
from infra.runtime.topics import ALL_TOPICS, TopicSet
from schemas.catalogue import decode_any
from schemas.codec import SCHEMA_HEADER, RecordError

BOOKKEEPING = "#"
"""Keys of a stage's own rows and of ticks, which are nobody else's business."""
DEAD_LETTER_MARK = "dlq.reason"


def command(
    topic: Annotated[str, typer.Argument(help="Topic without prefix, such as vm.changes.")],
    key: Annotated[
        str | None, typer.Option("--key", help="Only records whose key begins with this (a VM's id).")
    ] = None,
    last: Annotated[
        int, typer.Option("--last", "-n", min=0, help="Begin this many records before each partition's end.")
    ] = 10,
    from_start: Annotated[bool, typer.Option("--from-start", help="Begin at the oldest record.")] = False,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Wait for more at the end.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Whole records, one JSON object a line.")] = False,
    stack: StackName = "default",
    bootstrap: Bootstrap = None,
    config: ConfigFile = None,
) -> None:
    """Show a topic's records, decoded, newest last; Ctrl-C ends.

    Reads without a consumer group: it commits nothing and disturbs nobody. A record that can not be decoded is
    shown with the reason and skipped; ticks and a stage's own rows (keys that begin with #) are left out.
    """
    settings = reader_settings(stack, bootstrap=bootstrap, file=config)
    if topic not in ALL_TOPICS:
        raise ConfigError(f"{topic!r} is not a topic of ours", advice=f"choose one of: {', '.join(ALL_TOPICS)}")
    wait_for_kafka(settings.kafka)
    name = TopicSet.of(settings.kafka, settings.topics).name(topic)
    consumer = make_consumer(settings.kafka, group_id=f"deltavisor-tail-{os.getpid()}", fetch_wait_max_ms=100)
    try:
        waiting = _assign(consumer, name, None if from_start else last)
        while follow or waiting:
            message = consumer.poll(0.5)
            if message is None:
                if not follow and _at_end(consumer, waiting):
                    break
                continue
            if message.error() is not None:
                raise NeighbourUnreachable(str(message.error()), where=f"topic {name}")
            _show(message, key, json)
            if not follow and waiting.get(message.partition() or 0, 0) <= (message.offset() or 0) + 1:
                waiting.pop(message.partition() or 0, None)
    except confluent_kafka.KafkaException as error:
        raise unreachable(settings.kafka, error) from error
    except KeyboardInterrupt:
        return
    finally:
        consumer.close()


def _assign(consumer: confluent_kafka.Consumer, name: str, last: int | None) -> dict[int, int]:
    """Assign every partition of the topic; returns the end offset of each that holds anything to show."""
    metadata = consumer.list_topics(name, timeout=10).topics[name]
    if metadata.error is not None or not metadata.partitions:
        raise ConfigError("no such topic on the broker", where=name, advice="create it with `deltavisor topics apply`")
    places, ends = [], {}
    for partition in metadata.partitions:
        low, high = consumer.get_watermark_offsets(confluent_kafka.TopicPartition(name, partition), timeout=10)
        begin = low if last is None else max(low, high - last)
        places.append(confluent_kafka.TopicPartition(name, partition, begin))
        if begin < high:
            ends[partition] = high
    consumer.assign(places)
    return ends


def _at_end(consumer: confluent_kafka.Consumer, waiting: dict[int, int]) -> bool:
    """True when nothing more will come: compaction may have removed the records before an end."""
    positions = {place.partition: place.offset for place in consumer.position(consumer.assignment())}
    return all(positions.get(partition, 0) >= end for partition, end in waiting.items())


def _show(message: confluent_kafka.Message, key: str | None, json: bool) -> None:
    text_key = (message.key() or b"").decode("utf-8", "replace")
    if key is not None and not text_key.startswith(key):
        return
    if text_key.startswith(BOOKKEEPING):
        return
    value = message.value()
    place = f"{message.partition()}@{message.offset()}"
    headers = dict(message.headers() or [])
    if value is None:
        print(f"{place:>12} {text_key} deleted")
        return
    if DEAD_LETTER_MARK in headers:
        # Its bytes are whatever somebody wrote; the headers say why they are here.
        facts = {name: (text or b"").decode("utf-8", "replace") for name, text in headers.items()}
        print(f"{place:>12} {text_key} {facts}")
        return
    header = headers.get(SCHEMA_HEADER)
    try:
        record = decode_any(value, header)
    except RecordError as problem:
        print(f"{place:>12} {text_key} not shown: {problem}", file=sys.stderr)
        return
    if json:
        sys.stdout.write(as_json(record).decode() + "\n")
        sys.stdout.flush()
        return
    _, milliseconds = message.timestamp()
    print(f"{clock(milliseconds * 1_000_000)} {place:>12} {text_key} {describe(record)}", flush=True)
