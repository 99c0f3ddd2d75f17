"""Headers of a message on `dead.letters`: the original bytes stay as they were, the headers say why they are there."""

from typing import NewType

HeaderList = NewType("HeaderList", list[tuple[str, bytes]])


def dead_letter_headers(
    *, topic: str, partition: int, offset: int, stage: str, reason: str, error: str, schema: bytes | None
) -> HeaderList:
    """Standard headers, all text in UTF-8; `error` is cut to 1,000 characters."""
    headers = [
        ("dlq.topic", topic.encode()),
        ("dlq.partition", str(partition).encode()),
        ("dlq.offset", str(offset).encode()),
        ("dlq.stage", stage.encode()),
        ("dlq.reason", reason.encode()),
        ("dlq.error", error[:1000].encode()),
    ]
    if schema is not None:
        headers.append(("schema", schema))
    return HeaderList(headers)
