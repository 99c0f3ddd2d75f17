"""What a verification is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Where to look and what to expect. None: not checked."""

    kafka: str
    """`host:port`, comma separated where there are several."""
    postgres: str | None = None
    """libpq conninfo; None leaves the tables out."""
    postgres_password: str | None = field(default=None, repr=False)
    prefix: str = ""
    """Topic prefix."""
    kafka_properties: Mapping[str, str] = field(default_factory=dict)
    """More properties for librdkafka, such as those of TLS and SASL."""
    injected_letters: int | None = None
    """Poisoned records or facets that were injected: dead.letters must hold exactly so many (I9)."""
    grace_ticks: int | None = None
    """The least grace that was set: no host may be called silent after fewer ticks (H1)."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Measured by the harness (I10), shown with the verdict."""
    bounds: Mapping[str, float] = field(default_factory=dict)
    """Highest allowed value of a figure, by its name."""
    quiet: bool = True
    """The line was quiet when the verification began: what is in a topic must be in the tables too. False leaves out
    what may still be under way: the sink's lag and final agreement of topics and tables."""
