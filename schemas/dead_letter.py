"""Messages on `dead.letters`: the original bytes as they were; headers say what they are and why they are there.

| header | holds |
|---|---|
| `dlq.topic`, `dlq.partition`, `dlq.offset` | where the record stands, or the record of which this is a part |
| `dlq.stage` | who put it aside |
| `dlq.reason` | one word, of a bounded set |
| `dlq.error` | a sentence for people, at most 1,000 characters |
| `dlq.time` | log-append time (UTC ns) of the original; the letter's own timestamp says when it was put aside |
| `dlq.attempts` | how often it was tried; missing for what ended processes, which the error log counts |
| `dlq.host`, `dlq.vm` | whom it is about, as id text, where that is known |
| `dlq.size` | bytes of the original, only where the value was cut |
| `schema` | the original's |

All text is UTF-8. A letter may be there twice after a crash: the first three headers, `dlq.vm` and `dlq.reason` tell.
"""

from typing import NewType

HeaderList = NewType("HeaderList", list[tuple[str, bytes]])

LETTER_LIMIT_BYTES = 3 * 1024 * 1024
"""A longer original is cut to this, so that a letter fits into its topic whatever else it carries."""
_ERROR_CHARACTERS = 1_000


def dead_letter_headers(
    *,
    topic: str,
    partition: int,
    offset: int,
    stage: str,
    reason: str,
    error: str,
    schema: bytes | None,
    appended_at: int | None = None,
    attempts: int | None = 1,
    host: str | None = None,
    vm: str | None = None,
    size: int | None = None,
) -> HeaderList:
    """Standard headers. `size`: of the original, when the value is only its beginning."""
    headers = [
        ("dlq.topic", topic.encode()),
        ("dlq.partition", str(partition).encode()),
        ("dlq.offset", str(offset).encode()),
        ("dlq.stage", stage.encode()),
        ("dlq.reason", reason.encode()),
        ("dlq.error", error[:_ERROR_CHARACTERS].encode("utf-8", "replace")),
    ]
    further = (
        ("dlq.attempts", attempts),
        ("dlq.time", appended_at),
        ("dlq.host", host),
        ("dlq.vm", vm),
        ("dlq.size", size),
    )
    for name, value in further:
        if value is not None:
            headers.append((name, str(value).encode()))
    if schema is not None:
        headers.append(("schema", schema))
    return HeaderList(headers)


def letter_value(value: bytes) -> tuple[bytes, int | None]:
    """What a letter holds of this original, and its size when that is not all of it."""
    if len(value) <= LETTER_LIMIT_BYTES:
        return value, None
    return value[:LETTER_LIMIT_BYTES], len(value)
