"""Facet `console`: displays and who looks at them."""

import msgspec

from schemas.ownership import Noted, Reported
from schemas.text import Name


class Display(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One graphical console."""

    type: Name
    address: Name | None = None
    port: int | None = None
    tls_port: int | None = None


class Console(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Displays and the connected client."""

    displays: Reported[list[Display]] = []
    client_ip: Reported[Name | None] = None
    client_since: Noted[int | None] = None
