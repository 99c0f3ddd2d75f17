"""Identities: 16 raw bytes inside, canonical UUID text outside, and the partition that belongs to them.

Internal records carry 16 bytes; public records and Kafka keys carry the 36-character lower-case text.
"""

from typing import NewType
from uuid import UUID

VmId = NewType("VmId", bytes)
HostId = NewType("HostId", bytes)
MachineId = NewType("MachineId", bytes)
BootId = NewType("BootId", bytes)
AgentEpoch = NewType("AgentEpoch", bytes)
SnapshotId = NewType("SnapshotId", bytes)
RequestId = NewType("RequestId", bytes)
RunId = NewType("RunId", bytes)

_MURMUR2_SEED = 0x9747B28C
_MURMUR2_M = 0x5BD1E995
_U32 = 0xFFFFFFFF
_TEXT_LENGTH = 36
_ID_BYTES = 16


def uuid_text(raw: bytes) -> str:
    """Canonical text of 16 raw bytes; raises ValueError when they are not 16."""
    if len(raw) != 16:
        raise ValueError(f"an id has 16 bytes, this one has {len(raw)}")
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def uuid_bytes(text: str) -> bytes:
    """The 16 raw bytes of a UUID text; raises ValueError when it is none."""
    if len(text) == _TEXT_LENGTH:
        # The canonical form, in an eighth of the time that UUID takes.
        raw = bytes.fromhex(text.replace("-", ""))
        if len(raw) == _ID_BYTES:
            return raw
    return UUID(text).bytes


def key_of(raw: bytes) -> bytes:
    """Kafka key of an id: its 36-character text in ASCII."""
    return uuid_text(raw).encode("ascii")


def murmur2(data: bytes) -> int:
    """Kafka's key hash (`org.apache.kafka.common.utils.Utils.murmur2`), as an unsigned 32-bit number."""
    length = len(data)
    hashed = _MURMUR2_SEED ^ length
    words = length & ~3
    for at in range(0, words, 4):
        word = int.from_bytes(data[at : at + 4], "little") * _MURMUR2_M & _U32
        word ^= word >> 24
        hashed = (hashed * _MURMUR2_M & _U32) ^ (word * _MURMUR2_M & _U32)
    if tail := data[words:]:
        hashed = (hashed ^ int.from_bytes(tail, "little")) * _MURMUR2_M & _U32
    hashed ^= hashed >> 13
    hashed = hashed * _MURMUR2_M & _U32
    return hashed ^ (hashed >> 15)


def partition_of(key: bytes, partitions: int) -> int:
    """Partition that every Kafka client with the murmur2 partitioner gives to this key.

    About 8 µs for a UUID text: callers keep the result beside the id.
    """
    return (murmur2(key) & 0x7FFFFFFF) % partitions
