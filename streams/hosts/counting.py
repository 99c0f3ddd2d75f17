"""Counts for metrics, summed until the shell fetches them."""

from streams.runtime.stage import Counts

METRICS: tuple[str, ...] = (
    "ticks_counted",
    "ticks_refused",
    "repeats_records",
    "dropped_records",
    "dead_letters_records",
    "equal_facets",
    "sequence_gaps",
    "digest_mismatches",
    "resyncs",
    "changes",
)
"""Names that `Tally` uses."""


class Tally:
    """Sums of one partition."""

    __slots__ = ("_sums",)

    def __init__(self) -> None:
        self._sums: dict[tuple[str, tuple[str, ...]], int] = {}

    def count(self, metric: str, *labels: str, amount: int = 1) -> None:
        """Add to one metric."""
        key = (metric, labels)
        self._sums[key] = self._sums.get(key, 0) + amount

    def drop(self, reason: str) -> None:
        """A record had no effect, as it should be."""
        self.count("dropped_records", reason, "true")

    def drain(self) -> list[Counts]:
        """Everything since the last call."""
        sums, self._sums = self._sums, {}
        return [Counts(metric, labels, amount) for (metric, labels), amount in sums.items()]
