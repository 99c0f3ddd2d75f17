"""Twins of records: the same bytes, laid out by setting what there is to say.

A keyword-only record of twenty fields takes longer to make than to encode, several times; an empty object and a few
plain attributes do not. The fields of a twin, their order and their defaults are those of its record, so it can not
drift from it; its values need no types, so parts that are encoded already stand in it as `msgspec.Raw`.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

import msgspec
from msgspec import structs

from schemas.change import Cause
from schemas.status import Believed, Doubt, ExitReason, GoneReason, PauseReason, Status

_UNSAID: Final = object()
"""Default of a field that must be set. Nothing can encode it; a record that omits defaults leaves it out, and nobody
can decode that."""


def twin_of(record: type[msgspec.Struct]) -> Callable[[], Any]:
    """A maker of empty twins; every required field has to be set."""
    fields: list[Any] = []
    for field in structs.fields(record):
        default: Any = msgspec.field(name=field.encode_name, default=_UNSAID)
        if field.default is not msgspec.NODEFAULT:
            default = msgspec.field(name=field.encode_name, default=field.default)
        elif field.default_factory is not msgspec.NODEFAULT:
            default = msgspec.field(name=field.encode_name, default_factory=field.default_factory)
        fields.append((field.name, Any, default))
    config = record.__struct_config__
    return msgspec.defstruct(
        f"{record.__name__}Twin",
        fields,
        omit_defaults=config.omit_defaults,
        array_like=config.array_like,
        gc=False,
    )


def _words(*kinds: type[StrEnum]) -> dict[StrEnum | None, str | None]:
    return {None: None, **{word: str(word.value) for kind in kinds for word in kind}}


WORD: Final = _words(Status, Believed, Doubt, Cause, ExitReason, GoneReason, PauseReason)
"""A word as a plain text, which is encoded in a quarter of the time of an enum's member."""
