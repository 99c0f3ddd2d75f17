"""Settings of a stage's worker: tables `[hosts]` and `[vms]` of the settings file.

Times belong together: a delivery must be known to have failed before the group may have given the partitions away
(`delivery_timeout_seconds` < half of `session_timeout_seconds`), and the session must fit into a request.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from infra.runtime.lifecycle import LifecycleSettings
from infra.runtime.settings import (
    ComponentSettings,
    HttpSettings,
    KafkaSettings,
    LogSettings,
    Secret,
    SubSettings,
    TopicSettings,
)

REQUEST_TIMEOUT_SECONDS = 40.0
"""Of the consumer's requests; Faust wants it above the session timeout."""
FEWEST_KEY_CHARACTERS = 16
"""A shorter key of the ticks could be guessed by whoever may write host.reports."""


class StreamSettings(ComponentSettings):
    """What every stage's worker needs."""

    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()
    lifecycle: LifecycleSettings = LifecycleSettings()

    worker_name: str = Field(default="1", min_length=1, max_length=100, pattern=r"^[a-zA-Z0-9._-]+$")
    """Static identity in the group: a restart under the same name within the session timeout keeps the partitions.
    Two living workers of a stage must not share one: the group ends the older."""
    session_timeout_seconds: float = Field(default=10.0, ge=6.0, lt=REQUEST_TIMEOUT_SECONDS)
    """A worker silent for so long loses its partitions to others."""
    heartbeat_interval_seconds: float = Field(default=3.0, gt=0)
    delivery_timeout_seconds: float = Field(default=4.5, ge=1.0)
    """A record not delivered in this time ends the process."""
    max_in_flight: int = Field(default=20_000, ge=100, le=200_000)
    """Records between applied and acknowledged. More gains no throughput and replays more after a crash."""
    recovery_deadline_seconds: float = Field(default=600.0, gt=0)
    """From the start of a rebalance until the tables are loaded; longer counts as stuck."""
    progress_deadline_seconds: float = Field(default=60.0, gt=0)
    """Longest time without applying anything while the input has records."""

    @model_validator(mode="after")
    def _times_fit_together(self) -> Self:
        if self.delivery_timeout_seconds >= self.session_timeout_seconds / 2:
            raise ValueError(
                "delivery_timeout_seconds must be below half of session_timeout_seconds: "
                "what a worker sent last must have failed before another may own its partitions"
            )
        if self.heartbeat_interval_seconds > self.session_timeout_seconds / 3:
            raise ValueError("heartbeat_interval_seconds must be at most a third of session_timeout_seconds")
        return self

    @property
    def group(self) -> str:
        """The consumer group of this stage, which is also the id of its Faust app."""
        return f"{self.kafka.topic_prefix}deltavisor-{self.component}"

    @property
    def instance(self) -> str:
        """The static member id within the group."""
        return f"{self.component}-{self.worker_name}"


class GraceSettings(SubSettings):
    """After how many ticks (seconds of the log) without a report a host is called silent (rule H1)."""

    base_ticks: int = Field(default=20, ge=10, le=600)
    """Agents speak every five seconds: two lost heartbeats must fit into it."""
    ticks_per_vm: float = Field(default=0.02, ge=0, le=1)
    most_ticks: int = Field(default=120, ge=10, le=3600)


class HostsStreamSettings(StreamSettings):
    """Settings of the hosts stage, which makes the ticks."""

    component: ClassVar[str] = "hosts"

    ticks: Literal["own", "external"] = "own"
    """`external`: somebody else writes them, as tests and replays do."""
    grace: GraceSettings = GraceSettings()
    sum_ticks: int = Field(default=3_600, ge=10, le=86_400)
    """How often the vms stage is told what it should hold of a host; equal for all workers."""
    tick_key: Secret
    """Shared by all workers of the stage and by nobody else; give it as `tick_key_file`."""

    @model_validator(mode="after")
    def _key_is_no_word(self) -> Self:
        if len(self.tick_key.reveal()) < FEWEST_KEY_CHARACTERS:
            raise ValueError(f"tick_key has fewer than {FEWEST_KEY_CHARACTERS} characters")
        return self

    @property
    def tick_secret(self) -> bytes:
        """The key as `schemas.tick.sign_tick` takes it."""
        return self.tick_key.reveal().encode()


class VmsStreamSettings(StreamSettings):
    """Settings of the vms stage, which copies intents into its own log."""

    component: ClassVar[str] = "vms"

    intent_key: Secret | None = None
    """Signs the copies; shared by all workers of the stage and by nobody else, the key of the ticks will do. Give it as
    `intent_key_file`. Without it no intent is taken."""

    @model_validator(mode="after")
    def _key_is_no_word(self) -> Self:
        if self.intent_key is not None and len(self.intent_key.reveal()) < FEWEST_KEY_CHARACTERS:
            raise ValueError(f"intent_key has fewer than {FEWEST_KEY_CHARACTERS} characters")
        return self

    @property
    def intent_secret(self) -> bytes:
        """The key as `schemas.intent.sign_intent` takes it; empty when there is none."""
        return b"" if self.intent_key is None else self.intent_key.reveal().encode()
