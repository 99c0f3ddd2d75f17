"""The generated reference is fresh, whole and true of real messages."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgpack
import pytest

from schemas import reference
from schemas.catalogue import RECORDS
from schemas.codec import encode
from tests.unit.schemas.samples import SAMPLES

DOCS = Path(__file__).parents[3] / "docs" / "schemas"


@pytest.mark.parametrize("name", sorted(reference.files()))
def test_checked_in_page_is_fresh(name: str) -> None:
    written = (DOCS / name).read_text(encoding="utf-8")
    assert written == reference.files()[name], "stale: run python -m schemas.reference docs/schemas"


def test_every_record_has_a_topic_and_a_page() -> None:
    assert {record for records in reference.CHANNELS.values() for record in records} == set(RECORDS)
    assert {path.stem for path in DOCS.glob("*.json")} == {*RECORDS, "facets", "asyncapi"}


def as_json(value: Any) -> Any:
    """MessagePack value as JSON sees it: byte strings become text of the same length."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return value


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_schema_accepts_the_sample_and_refuses_a_broken_one(name: str) -> None:
    record = SAMPLES[name]
    schema = json.loads((DOCS / f"{record.SCHEMA.record}.json").read_text(encoding="utf-8"))
    message = as_json(msgpack.unpackb(encode(record)))
    jsonschema.validate(message, schema)
    broken = ["nonsense", *message[1:]] if isinstance(message, list) else {**message, next(iter(message)): [1]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)
