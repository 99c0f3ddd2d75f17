"""A facet as it travels: canonical bytes within their limits, and the fingerprint that says whether it changed."""

from functools import cache
from typing import NamedTuple, cast

import msgspec

from producers.agent.fitting import clip_text, cut_collections
from schemas.facets import FACET_LIMIT_BYTES
from schemas.facets.normal import fingerprint, normalise


class UnfitFacet(ValueError):
    """The source built a facet that no reader could accept; it is left out, which means unchanged."""


class Rendered(NamedTuple):
    """A facet ready to be sent; `normal` is the fingerprint of its normal form (16 bytes), `data` what travels."""

    data: bytes
    normal: bytes


_encode = msgspec.msgpack.Encoder().encode


@cache
def _decoder(kind: type[msgspec.Struct]) -> msgspec.msgpack.Decoder[msgspec.Struct]:
    return msgspec.msgpack.Decoder(kind)


def render(facet: msgspec.Struct, last: Rendered | None = None) -> Rendered | None:
    """Canonical form of a facet, or None when it says the same as `last`.

    Fields that are only noted take no part in the comparison, so an age or a time of looking alone sends nothing.
    What exceeds its limits is cut and marked here, before any digest. Raises UnfitFacet.
    """
    if last is not None and _encode(facet) == last.data:
        return None
    fit = _fit(normalise(_ordered(facet)))
    normal = fingerprint(fit)
    if last is not None and normal == last.normal:
        return None
    return Rendered(_encode(fit), normal)


def parse(data: bytes, kind: type[msgspec.Struct]) -> msgspec.Struct:
    """The facet again from bytes that `render` made."""
    return _decoder(kind).decode(data)


def _ordered(facet: msgspec.Struct) -> msgspec.Struct:
    """The same facet with its maps in key order: equal maps compare equal in any order, their bytes do not."""
    changes = {}
    for name in facet.__struct_fields__:
        value = getattr(facet, name)
        if isinstance(value, dict) and list(value) != (keys := sorted(value)):
            changes[name] = {key: value[key] for key in keys}
    return msgspec.structs.replace(facet, **changes) if changes else facet


def _fit(facet: msgspec.Struct) -> msgspec.Struct:
    kind = type(facet)
    data = _encode(facet)
    if len(data) <= FACET_LIMIT_BYTES and _readable(kind, data):
        return facet
    fit = normalise(cut_collections(cast(msgspec.Struct, clip_text(facet)), FACET_LIMIT_BYTES))
    data = _encode(fit)
    if len(data) > FACET_LIMIT_BYTES or not _readable(kind, data):
        raise UnfitFacet(f"{kind.__name__}: {len(data)} bytes, or a value that its type does not allow")
    return fit


def _readable(kind: type[msgspec.Struct], data: bytes) -> bool:
    """True when a reader's typed decoder takes these bytes."""
    try:
        _decoder(kind).decode(data)
    except (msgspec.ValidationError, msgspec.DecodeError):
        return False
    return True
