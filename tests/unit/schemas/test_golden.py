"""Golden files: what released versions wrote stays readable, and what we write today is what they hold.

A new version of a record adds files and never changes old ones. `python -m tests.unit.schemas.test_golden` writes the
files that are missing.
"""

from pathlib import Path

import pytest

from schemas.catalogue import RECORDS, decode_any
from schemas.codec import Record, encode, header_of
from tests.unit.schemas.samples import SAMPLES

GOLDEN = Path(__file__).with_name("golden")


def golden_name(sample: str, record: Record) -> str:
    """File name of a sample: record, version and, where there are several, the variant."""
    name, _, variant = sample.partition(".")
    version = f"{record.SCHEMA.major}.{record.SCHEMA.minor}"
    return f"{name}-{version}{'.' + variant if variant else ''}.msgpack"


def test_every_record_has_a_golden_file() -> None:
    assert {name.partition(".")[0] for name in SAMPLES} == set(RECORDS)
    assert {golden_name(name, record) for name, record in SAMPLES.items()} <= {file.name for file in GOLDEN.iterdir()}


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_today_writes_what_the_golden_file_holds(name: str) -> None:
    record = SAMPLES[name]
    assert encode(record) == (GOLDEN / golden_name(name, record)).read_bytes()


@pytest.mark.parametrize("file", sorted(GOLDEN.iterdir()), ids=lambda file: file.name)
def test_every_released_version_is_read_and_written_back(file: Path) -> None:
    record_name, _, rest = file.name.partition("-")
    version = ".".join(rest.split(".")[:2])
    data = file.read_bytes()
    record = decode_any(data, f"{record_name}/{version}")
    assert type(record) is RECORDS[record_name]
    if f"{record_name}/{version}".encode() == header_of(type(record)):
        assert encode(record) == data


def write_missing() -> None:
    """Write golden files that do not exist yet; existing ones are never touched."""
    GOLDEN.mkdir(exist_ok=True)
    for name, record in SAMPLES.items():
        path = GOLDEN / golden_name(name, record)
        if not path.exists():
            path.write_bytes(encode(record))


if __name__ == "__main__":
    write_missing()
