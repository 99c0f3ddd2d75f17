"""A facet as it travels: canonical bytes within their limits, and the fingerprint that says whether it changed."""

from functools import cache
from typing import NamedTuple, cast

import msgspec

from producers.agent.fitting import clip_text, cut_collections
from schemas.facets import FACET_LIMIT_BYTES
from schemas.facets.normal import normal_form, normalise


class UnfitFacet(ValueError):
    """The source built a facet that no reader could accept; it is left out, which means unchanged."""


class Rendered(NamedTuple):
    """A facet ready to be sent; `normal` is the fingerprint of its normal form (16 bytes), `data` what travels."""

    data: bytes
    normal: bytes
    cut: bool = False
    """It was too large, and says so."""


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
    rendered = _rendered(_ordered(facet))
    if len(rendered.data) > FACET_LIMIT_BYTES or not _readable(type(facet), rendered.data):
        rendered = _fit(facet)
    return None if last is not None and rendered.normal == last.normal else rendered


def _rendered(facet: msgspec.Struct) -> Rendered:
    normal, data = normal_form(facet)
    return Rendered(data, normal)


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


def _fit(facet: msgspec.Struct) -> Rendered:
    ordered = normalise(_ordered(cast(msgspec.Struct, clip_text(facet))))
    fit = _rendered(cut_collections(ordered, FACET_LIMIT_BYTES))
    if len(fit.data) > FACET_LIMIT_BYTES or not _readable(type(facet), fit.data):
        raise UnfitFacet(f"{type(facet).__name__}: {len(fit.data)} bytes, or a value that its type does not allow")
    return fit._replace(cut=True)


def _readable(kind: type[msgspec.Struct], data: bytes) -> bool:
    """True when a reader's typed decoder takes these bytes."""
    try:
        _decoder(kind).decode(data)
    except (msgspec.ValidationError, msgspec.DecodeError):
        return False
    return True
