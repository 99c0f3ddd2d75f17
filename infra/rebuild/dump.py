"""State dumps: the tables of both stages in one file, with the offsets up to which they include their inputs.

    8 bytes  DVSTATE1
    frames   4 bytes length (big-endian), then so many bytes of MessagePack

The first frame is a Header, each next one a Rows (up to a thousand rows of one partition), the last an End with counts
and a checksum. Per partition the rows are a whole table: fed to the stage's loader they give the state that its own
`#partition` row names, whatever the workers did meanwhile. Sizes are checked before anything is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from struct import Struct
from typing import Any, Final

import msgspec
import xxhash

from infra.runtime.errors import ConfigError
from streams.runtime.stage import PARTITION_KEY, Kept, PartitionCore, PartitionLoader, Row

MAGIC: Final = b"DVSTATE1"
FORMAT: Final = 1
FRAME_LIMIT_BYTES: Final = 32 * 1024 * 1024
CHUNK_ROWS: Final = 1_000
CHUNK_BYTES: Final = 8 * 1024 * 1024
_LENGTH = Struct(">I")
_END = "end"


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What was dumped, by which program."""

    format: int
    made_at: int
    """Wall clock, ns."""
    program: str
    partitions: int
    topic_ids: dict[str, str]
    """By topic without prefix, when the dump was made."""


class Rows(msgspec.Struct, frozen=True, array_like=True, tag="rows"):
    """Some rows of one partition, in the order in which its loader takes them."""

    stage: str
    partition: int
    rows: list[Row]


class End(msgspec.Struct, frozen=True, array_like=True, tag=_END):
    """The dump is whole."""

    frames: int
    rows: int
    checksum: bytes
    """xxh3_128 over the bytes of all frames before this one."""


_frame = msgspec.msgpack.Decoder(Rows | End)
_header = msgspec.msgpack.Decoder(Header)
_encode = msgspec.msgpack.Encoder().encode


class DumpWriter:
    """Writes beside the target and renames at the end, so that a file under its name is whole. Mode 0600."""

    def __init__(self, path: Path, header: Header) -> None:
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self._sum = xxhash.xxh3_128()
        self._frames = self._rows = 0
        try:
            descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot be written ({error.strerror})", where=str(path)) from error
        self._file = os.fdopen(descriptor, "wb")
        self._file.write(MAGIC)
        self._write(_encode(header))

    def add(self, stage: str, partition: int, rows: Sequence[Row]) -> None:
        """Add a whole partition of a table."""
        chunk: list[Row] = []
        size = 0
        for row in rows:
            chunk.append(row)
            size += len(row.key) + len(row.value or b"")
            if len(chunk) == CHUNK_ROWS or size >= CHUNK_BYTES:
                self._write(_encode(Rows(stage, partition, chunk)))
                chunk, size = [], 0
        if chunk:
            self._write(_encode(Rows(stage, partition, chunk)))
        self._rows += len(rows)

    def finish(self) -> int:
        """Close and rename; how many rows there are."""
        self._write(_encode(End(self._frames, self._rows, self._sum.digest())))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.replace(self._path)
        return self._rows

    def abandon(self) -> None:
        """Leave nothing behind; safe after `finish`."""
        self._file.close()
        self._part.unlink(missing_ok=True)

    def _write(self, frame: bytes) -> None:
        self._file.write(_LENGTH.pack(len(frame)))
        self._file.write(frame)
        self._sum.update(frame)
        self._frames += 1


def read_dump(path: Path) -> tuple[Header, Iterator[Rows]]:
    """Header and rows of a dump. Raises ConfigError for a file that is none, is cut or damaged; the latter two only
    when everything was read."""
    frames = _frames(path)
    first = next(frames, b"")
    try:
        header = _header.decode(first)
    except msgspec.DecodeError as problem:
        raise _damaged(path, f"its header can not be read: {problem}") from problem
    if header.format != FORMAT:
        raise ConfigError(
            f"a dump of format {header.format}, this program knows {FORMAT}",
            where=str(path),
            advice="use the program that made it",
        )
    return header, _rows(path, first, frames)


def _rows(path: Path, first: bytes, frames: Iterator[bytes]) -> Iterator[Rows]:
    checksum = xxhash.xxh3_128(first)
    count, rows = 1, 0
    for data in frames:
        try:
            frame = _frame.decode(data)
        except (msgspec.DecodeError, RecursionError) as problem:
            raise _damaged(path, f"frame {count} can not be read: {problem}") from problem
        if isinstance(frame, End):
            if (frame.frames, frame.rows, frame.checksum) != (count, rows, checksum.digest()):
                raise _damaged(path, "its checksum or counts differ")
            return
        checksum.update(data)
        count += 1
        rows += len(frame.rows)
        yield frame
    raise _damaged(path, "its end is missing")


def _frames(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ConfigError("is no state dump", where=str(path), advice="`deltavisor state dump` makes one")
            while head := file.read(_LENGTH.size):
                length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
                if not 0 < length <= FRAME_LIMIT_BYTES:
                    raise _damaged(path, f"a frame of {length} bytes, the limit is {FRAME_LIMIT_BYTES}")
                data = file.read(length)
                if len(data) != length:
                    raise _damaged(path, "it is cut in a frame")
                yield data
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", where=str(path)) from error


def _damaged(path: Path, why: str) -> ConfigError:
    return ConfigError(f"the dump is damaged: {why}", where=str(path), advice="take another one")


class WholeBatches:
    """A loader that is given whole batches only: rows behind the last partition row are left out.

    They belong to a batch that was torn, or is being written while a dump is made; what they would change is in the
    inputs that the partition row does not include yet.
    """

    def __init__(self, loader: PartitionLoader) -> None:
        self._loader = loader
        self._waiting: list[tuple[bytes, bytes | None, bytes | None]] = []

    @property
    def kept(self) -> Kept | None:
        """See GuardedLoader."""
        found: Kept | None = getattr(self._loader, "kept", None)
        return found

    def add(self, key: bytes, value: bytes | None, schema: bytes | None) -> None:
        """See PartitionLoader."""
        self._waiting.append((key, value, schema))
        if key == PARTITION_KEY:
            for row in self._waiting:
                self._loader.add(*row)
            self._waiting.clear()

    def finish(self) -> PartitionCore:
        """See PartitionLoader."""
        return self._loader.finish()


class WholeBatchStage:
    """A stage whose loaders take whole batches only."""

    def __init__(self, stage: Any, loader: Callable[[int], PartitionLoader]) -> None:
        self._loader = loader
        self.name: str = stage.name
        self.inputs: tuple[str, ...] = stage.inputs
        self.table_topic: str = stage.table_topic
        self.outputs: tuple[str, ...] = stage.outputs
        self.metric_names = stage.metric_names

    def loader(self, partition: int) -> WholeBatches:
        """See Stage."""
        return WholeBatches(self._loader(partition))
