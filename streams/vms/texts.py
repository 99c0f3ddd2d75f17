"""Texts of ids for a hot loop: a VM that changes is named in its change, its head and each facet row."""

from functools import lru_cache
from typing import Final

from schemas.ids import uuid_text

_REMEMBERED: Final = 65_536
"""About 10 MB; more VMs than one group commit touches."""

text_of = lru_cache(maxsize=_REMEMBERED)(uuid_text)
