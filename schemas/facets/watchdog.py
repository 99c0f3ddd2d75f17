"""Facet `watchdog`: the last time the virtual watchdog fired."""

import msgspec

from schemas.ownership import Reported
from schemas.text import Name


class Watchdog(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Last watchdog event; it never changes the status (rule S9)."""

    last_at: Reported[int | None] = None
    action: Reported[Name | None] = None
