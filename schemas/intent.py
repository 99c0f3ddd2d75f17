"""Intent: what an operator or an automation wants of a VM (`vm.intents`, key vm_id), and its copy in the stage's log.

Operators write intents; the vms worker copies those of its partitions into `vm.observations`, so that one log decides
the order of everything. A copy is signed: whoever may write that topic could else speak for an operator.
"""

import hmac
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, Any, ClassVar

import msgspec

from schemas.codec import Record, SchemaVersion
from schemas.text import Name

INTENT_KEY = b"#intent"
"""Kafka key of a copy."""
INTENT_LIMIT_BYTES = 64 * 1024
LABEL_LIMIT_BYTES = 1024
"""Of the key and of the schema header of an intent."""
_STAND_IN = b"\xc1oversized: "
"""Begins what is copied instead of an oversized intent; the first byte begins no record."""


class Operation(StrEnum):
    """What is meant to happen."""

    START = "start"
    STOP = "stop"
    DESTROY = "destroy"
    REBOOT = "reboot"
    MIGRATE = "migrate"
    SAVE = "save"
    HOTPLUG = "hotplug"
    EDIT = "edit"
    """Managed fields, and nothing else (rule I5)."""
    REPUBLISH = "republish"
    """Write head and facets of the VM again under the same version; no deadline, never open."""


class Intent(Record, frozen=True, kw_only=True):
    """One operation on one VM, announced before it begins (rules I1 to I7)."""

    SCHEMA: ClassVar[SchemaVersion] = SchemaVersion(record="Intent", major=1, minor=0)
    PUBLIC: ClassVar[bool] = True

    vm_id: Annotated[str, msgspec.Meta(min_length=36, max_length=36)]
    intent_id: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    """Chosen by the writer, unique; a second one of the same id is the same intent."""
    op: Operation
    by: Name
    """Who wants it; shown, never interpreted."""
    deadline_at: int | None = None
    """Log-append time (UTC ns) after which it counts as expired; None for an operation that takes no time."""
    fields: dict[str, Any] = {}
    """Of the operation: destination, managed fields, device."""


class IntentCopy(Record, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """A record of `vm.intents` as it stands in `vm.observations` of the same partition number.

    It counts only when `previous` is at or below the last copy that counted and `offset` above it. So copies made
    twice are repeats, and one behind a copy that was lost is refused and made again.
    """

    SCHEMA: ClassVar[SchemaVersion] = SchemaVersion(record="IntentCopy", major=1, minor=0)

    offset: int
    """In vm.intents."""
    previous: int
    """Offset up to which everything was copied before this one; they differ by more than one where retention cut."""
    appended_at: int
    """Log-append time of the original (ns)."""
    key: bytes | None
    schema: bytes | None
    """Header of the original."""
    value: bytes
    mac: bytes


def fitted(copy: IntentCopy) -> IntentCopy:
    """The copy, or one that says how large the parts of its original are where one of them is too large to be copied.

    So a copy always fits into its topic, and whoever takes copies gets past the original.
    """
    key, schema, value = copy.key or b"", copy.schema or b"", copy.value
    if len(value) <= INTENT_LIMIT_BYTES and max(len(key), len(schema)) <= LABEL_LIMIT_BYTES:
        return copy
    sizes = (
        f"key of {len(key)} and schema of {len(schema)} bytes, at most {LABEL_LIMIT_BYTES} each; "
        f"value of {len(value)} bytes, at most {INTENT_LIMIT_BYTES}"
    )
    return msgspec.structs.replace(
        copy,
        key=None if len(key) > LABEL_LIMIT_BYTES else copy.key,
        schema=None if len(schema) > LABEL_LIMIT_BYTES else copy.schema,
        value=_STAND_IN + sizes.encode("ascii"),
    )


def oversize_of(copy: IntentCopy) -> str | None:
    """What `fitted` said of an original that was too large; None of any other."""
    return copy.value[1:].decode("ascii", "replace") if copy.value.startswith(_STAND_IN) else None


def sign_intent(secret: bytes, topic_id: str, partition: int, copy: IntentCopy) -> bytes:
    """HMAC-SHA256 over the place of the original and all it says: a copy is valid once and in one place."""
    parts = (copy.key or b"", copy.schema or b"", copy.value)
    numbers = (partition, copy.previous, copy.offset, copy.appended_at, *map(len, parts))
    place = f"{topic_id}:{':'.join(map(str, numbers))}:"
    return hmac.digest(secret, place.encode("ascii") + b"".join(parts), sha256)


def signed(secret: bytes, topic_id: str, partition: int, copy: IntentCopy) -> IntentCopy:
    """The copy with its signature."""
    return msgspec.structs.replace(copy, mac=sign_intent(secret, topic_id, partition, copy))


def is_signed(secret: bytes, topic_id: str, partition: int, copy: IntentCopy) -> bool:
    """True when the copy was signed for this place with this secret; takes the same time either way."""
    return hmac.compare_digest(sign_intent(secret, topic_id, partition, copy), copy.mac)
