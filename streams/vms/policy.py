"""The numbers that the rules of the vms stage use.

Durations are ticks of the stage's clock (one per second of a log that moves); `_ns` compares append times.
"""

from typing import Final

SECOND_NS: Final = 1_000_000_000

ASK_FIRST_TICKS: Final = 30
ASK_MOST_TICKS: Final = 600
"""Between two requests of one need: doubled each time. An agent sends at most one asked snapshot a minute."""
BUCKET_TOKENS: Final = 20
TOKENS_PER_TICK: Final = 2
"""Requests for snapshots per partition: a burst, then so many a second."""
SPREAD_MOST_TICKS: Final = 600
"""After a lost table hosts are asked one a second, but over no longer time than this."""
UNEQUAL_SUMS: Final = 3
"""So many unequal hourly sums of a host in a row: asking does not help, somebody has to look."""

LEFT_OUT_TICKS: Final = 300
"""A hosts partition without a new tick while the others gained so many no longer holds the clock back."""
LATE_NS: Final = 30 * SECOND_NS
"""Evidence this much older than the newest tick heard is late: it opens nothing and takes nothing (O6)."""
JUDGE_NS: Final = 10 * SECOND_NS
"""How far the clock must have passed a loss before it is believed: all that others said until then is read."""

NO_EXIT_TICKS: Final = 30
"""How long `down` without exit data waits for them (S1)."""
HOLD_TICKS: Final = 60
"""How long an ended source waits for its destination (O2)."""
GRACE_TICKS: Final = 60
"""How long the old owner may still call the VM its own after a hand-over (O1)."""
SETTLED_TICKS: Final = 10
"""How long both hosts must be confirmed before two running claims are a conflict."""
POWERING_UP_TICKS: Final = 60
REBOOTING_TICKS: Final = 60
REMOVE_TICKS: Final = 86_400
"""A VM that nobody lists any more, and nobody undefined, is `down` for a day before it is `removed` (O9)."""
FORGET_TICKS: Final = 86_400
"""The `removed` head is kept so long: its incarnation must not be used again."""
