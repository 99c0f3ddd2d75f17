"""`deltavisor dlq list|show|retry`: what nobody could use, why, and trying it again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

import confluent_kafka
import msgspec
import typer

from infra.agreement.topics import messages
from infra.cli.connect import Bootstrap, ConfigFile, ReaderSettings, StackName, reader_settings
from infra.letters.letter import RETRIED, RETRIED_HEADER, Letter, Place, Wanted, content, printable, since
from infra.letters.retrying import AGAIN_HEADER, Means, host_of, means_of
from infra.repair.log import Writer
from infra.runtime.errors import ConfigError, NeighbourUnreachable
from infra.runtime.kafka import make_producer, wait_for_kafka
from infra.runtime.topics import DEAD_LETTERS, RESYNC_REQUESTS, TopicSet
from schemas.codec import SCHEMA_HEADER
from schemas.ids import HostId, RequestId, key_of
from schemas.resync import Asker, ResyncRequest

DELIVERY_SECONDS = 10.0

app = typer.Typer(no_args_is_help=True, help="Look at dead letters, and try them again.")

Places = Annotated[list[str], typer.Argument(metavar="PLACE", help="Letters as `dlq list` names them: 2@17.")]


@app.command("list")
def show_all(
    stage: Annotated[str | None, typer.Option("--stage", help="Put aside by this stage or sink.")] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Put aside for this reason.")] = None,
    host: Annotated[str | None, typer.Option("--host", help="About this host: id or beginning of it.")] = None,
    vm: Annotated[str | None, typer.Option("--vm", help="About this VM: id or beginning of it.")] = None,
    since_: Annotated[str | None, typer.Option("--since", help="Not older than this: 15m, 2h, 1d, or a time.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    stack: StackName = "default",
    bootstrap: Bootstrap = None,
    config: ConfigFile = None,
) -> None:
    """List dead letters, oldest first: place, when, who put it aside and why, the original's place, whom it is about.

    After a crash of a stage a letter may be there twice. Text of letters is shown with everything but printable
    characters escaped.
    """
    now = datetime.now(UTC)
    wanted = Wanted(stage=stage, reason=reason, host=host, vm=vm, since=None if since_ is None else since(since_, now))
    letters, retried = _read(_settings(stack, bootstrap, config))
    shown = sorted((one for one in letters if wanted.fits(one)), key=lambda one: (one.written_at, one.place))
    for letter in shown:
        print(_json_line(letter, retried) if json else _line(letter, retried))
    if not shown and not json:
        print("no dead letter" + (" fits" if letters else ""))


@app.command("show")
def show(
    place: Annotated[str, typer.Argument(metavar="PLACE", help="The letter as `dlq list` names it: 2@17.")],
    stack: StackName = "default",
    bootstrap: Bootstrap = None,
    config: ConfigFile = None,
) -> None:
    """Show one dead letter: its headers, and what it holds, decoded where it is a record, else its first bytes."""
    letters, retried = _read(_settings(stack, bootstrap, config))
    letter = _find(letters, Place.parse(place))
    print(_line(letter, retried))
    for name, value in sorted(letter.headers.items()):
        print(f"  {printable(name)}: {printable(value.decode('utf-8', 'replace'))}")
    print(f"  key: {printable((letter.key or b'').decode('utf-8', 'replace'))}")
    print(content(letter))


@app.command("retry")
def retry(
    places: Places,
    again: Annotated[bool, typer.Option("--again", help="Also letters that were tried again before.")] = False,
    stack: StackName = "default",
    bootstrap: Bootstrap = None,
    config: ConfigFile = None,
) -> None:
    """Try dead letters again, each once.

    A letter from host.reports or vm.observations is not written there again: the stages would drop it as older than
    what they heard since. Its host is asked for a forced snapshot instead, which also ends the quarantine of its VMs.
    Letters from vm.stats and of intents are produced to their topic as they came, with a header that says so. Letters
    of topics that only a stage writes are refused. Then the letter is marked, and refused from then on without --again.
    """
    settings = _settings(stack, bootstrap, config)
    letters, retried = _read(settings)
    chosen = [_find(letters, Place.parse(place)) for place in dict.fromkeys(places)]
    planned = [(letter, means_of(letter, is_retried=letter.place in retried, again=again)) for letter in chosen]
    desk = _Desk(settings)
    for letter, means in planned:
        desk.retry(letter, means)
        print(f"{letter.place}: {means}")


class _Desk:
    """Writes what a retry writes; each call returns when it is durable."""

    def __init__(self, settings: ReaderSettings) -> None:
        self._kafka = settings.kafka
        self._topics = TopicSet.of(settings.kafka, settings.topics)
        self._producer = make_producer(settings.kafka, delivery_timeout_ms=int(DELIVERY_SECONDS * 1000))

    def retry(self, letter: Letter, means: Means) -> None:
        """Do it, then mark the letter; a crash in between does it once more."""
        if means is Means.SNAPSHOT:
            self._ask(host_of(letter))
        else:
            schema = letter.headers.get(SCHEMA_HEADER)
            headers = [(AGAIN_HEADER, letter.original.encode())]
            headers += [(SCHEMA_HEADER, schema)] if schema is not None else []
            self._write(letter.topic, letter.key, letter.value, headers)
        mark = [("dlq.reason", RETRIED.encode()), (RETRIED_HEADER, str(letter.place).encode())]
        self._write(DEAD_LETTERS, letter.key, b"", mark)

    def _ask(self, host_id: HostId) -> None:
        request = ResyncRequest(
            request_id=RequestId(os.urandom(16)),
            host_id=host_id,
            force=True,
            asker=Asker.OPERATOR,
            reason="dead_letter",
        )
        writer = Writer(self._kafka, self._topics, RESYNC_REQUESTS)
        writer.write(key_of(host_id), request)
        writer.flush()

    def _write(self, topic: str, key: bytes | None, value: bytes, headers: list[tuple[str, bytes]]) -> None:
        failures: list[str] = []

        def report(error: confluent_kafka.KafkaError | None, message: confluent_kafka.Message) -> None:
            if error is not None:
                failures.append(error.str())

        self._producer.produce(self._topics.name(topic), value, key, headers=headers, on_delivery=report)
        left = self._producer.flush(DELIVERY_SECONDS + 1)
        if left or failures:
            raise NeighbourUnreachable(failures[0] if failures else "no answer", where=f"topic {topic}")


def _settings(stack: str, bootstrap: str | None, config: ConfigFile) -> ReaderSettings:
    settings = reader_settings(stack, bootstrap=bootstrap, file=config)
    wait_for_kafka(settings.kafka)
    return settings


def _read(settings: ReaderSettings) -> tuple[list[Letter], set[Place]]:
    """All letters, and the places of those that were tried again."""
    letters, retried = [], set()
    for letter in _all(settings):
        if letter.reason == RETRIED:
            if letter.marks is not None:
                retried.add(letter.marks)
        else:
            letters.append(letter)
    return letters, retried


def _all(settings: ReaderSettings) -> Iterator[Letter]:
    for message in messages(settings.kafka, TopicSet.of(settings.kafka, settings.topics), DEAD_LETTERS):
        _, milliseconds = message.timestamp()
        headers = {name: value if isinstance(value, bytes) else b"" for name, value in message.headers() or []}
        yield Letter(
            place=Place(message.partition() or 0, message.offset() or 0),
            written_at=datetime.fromtimestamp(milliseconds / 1_000, UTC),
            key=message.key(),
            value=message.value() or b"",
            headers=headers,
        )


def _find(letters: list[Letter], place: Place) -> Letter:
    for letter in letters:
        if letter.place == place:
            return letter
    raise ConfigError(f"there is no dead letter {place}", advice="it may be past its retention; see `dlq list`")


def _line(letter: Letter, retried: set[Place]) -> str:
    about = " ".join(
        f"{name} {letter.text(f'dlq.{name}')}" for name in ("host", "vm") if f"dlq.{name}" in letter.headers
    )
    mark = " retried" if letter.place in retried else ""
    words = (
        f"{letter.place!s:>8} {letter.written_at:%Y-%m-%d %H:%M:%S} {letter.text('dlq.stage')} {letter.reason} "
        f"{letter.original} {about or '-'}{mark}: {letter.text('dlq.error')}"
    )
    return printable(words)


def _json_line(letter: Letter, retried: set[Place]) -> str:
    told: dict[str, str | bool] = {
        name.removeprefix("dlq."): letter.text(name) for name in letter.headers if name.startswith("dlq.")
    }
    told |= {
        "place": str(letter.place),
        "written_at": letter.written_at.isoformat(),
        "key": (letter.key or b"").decode("utf-8", "replace"),
        "bytes": str(len(letter.value)),
        "retried": letter.place in retried,
    }
    return printable(msgspec.json.encode(told).decode("utf-8", "replace"))
