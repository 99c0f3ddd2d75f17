"""Requests for snapshots as values: a need that is open, when it is asked again, and the bound on all of them.

Time is the pulse of the clock (ticks of whichever hosts partition is fastest), so that a partition that stands still
holds up no repair.
"""

from collections.abc import Iterable

import msgspec
import xxhash

from schemas.ids import HostId, RequestId
from streams.vms.policy import ASK_FIRST_TICKS, ASK_MOST_TICKS, BUCKET_TOKENS, TOKENS_PER_TICK

MOST_REMEMBERED = 16
"""Requests of one need that are known again in an answer; by then ten minutes lie between two."""


class Repair(msgspec.Struct, frozen=True, array_like=True):
    """A need for a forced snapshot of one host, open until a whole one has answered one of its requests."""

    reason: str
    seed: bytes
    """Of its requests' ids: 16 bytes that follow from the evidence, so that a replay asks the same."""
    due: int
    """Not asked (again) before the pulse is here."""
    asked: int = 0
    """How often it was asked."""

    def request_id(self, number: int) -> RequestId:
        """Each request has its own id, since an agent answers an id once."""
        return RequestId(xxhash.xxh3_128_digest(self.seed + number.to_bytes(4, "big")))

    def is_answered(self, answers: Iterable[RequestId]) -> bool:
        """True when one of these is a request of this need."""
        named = set(answers)
        first = max(0, self.asked - MOST_REMEMBERED)
        return bool(named) and any(self.request_id(number) in named for number in range(first, self.asked))

    def asked_again(self, host_id: HostId, pulse: int) -> "Repair":
        """After one more request: the next is due after a longer time, with a jitter of a quarter."""
        delay = min(ASK_FIRST_TICKS << min(self.asked, 16), ASK_MOST_TICKS)
        jitter = xxhash.xxh3_64_intdigest(host_id + pulse.to_bytes(8, "big")) % (delay // 4 + 1)
        return msgspec.structs.replace(self, asked=self.asked + 1, due=pulse + delay + jitter)


class Bucket:
    """Bounds the requests of a partition. Filled by the pulse when it is looked at."""

    __slots__ = ("filled_at", "tokens")

    def __init__(self) -> None:
        self.tokens = BUCKET_TOKENS
        self.filled_at = 0
        """The pulse when `tokens` was right."""

    def take(self, pulse: int) -> bool:
        """True when one more request may go."""
        if pulse > self.filled_at:
            self.tokens = min(BUCKET_TOKENS, self.tokens + (pulse - self.filled_at) * TOKENS_PER_TICK)
            self.filled_at = pulse
        if self.tokens <= 0:
            return False
        self.tokens -= 1
        return True
