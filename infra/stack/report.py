"""How a long step tells what it is doing."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[str, str], None]
"""``report(subject, doing)``: the service or thing, and what happens to it now, as a short clause.

Called from several threads at once; must return quickly and never raise.
"""

Step = Callable[[str], None]
"""A report whose subject is settled."""


def silent(subject: str, doing: str) -> None:
    """Report nothing."""
