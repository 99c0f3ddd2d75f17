"""Settings of an agent: table `[agent]`, variables `DELTAVISOR_AGENT__…`, flags of `deltavisor agent`."""

from typing import ClassVar

from pydantic import Field

from infra.runtime.lifecycle import LifecycleSettings
from infra.runtime.settings import (
    ComponentSettings,
    HttpSettings,
    KafkaSettings,
    LogSettings,
    TopicSettings,
)
from producers.agent.reporter import Policy


class AgentSettings(ComponentSettings):
    """Everything but what is special to one source (`[simulator]`, `[libvirt]`)."""

    component: ClassVar[str] = "agent"

    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    log: LogSettings = LogSettings()
    http: HttpSettings = HttpSettings()
    lifecycle: LifecycleSettings = LifecycleSettings()

    heartbeat_seconds: float = Field(default=5.0, gt=0, le=15)
    """After this long without another report; hosts are called silent after 20 s, so three may be lost."""
    relist_seconds: float = Field(default=60.0, ge=1)
    """Between complete listings, which find what events missed."""
    snapshot_interval_seconds: float = Field(default=60.0, ge=0)
    """Least time between two snapshots asked for by the stages."""
    max_in_flight: int = Field(default=64, ge=1, le=1000)
    """Reports of one host on their way at once."""
    stalled_seconds: float = Field(default=1.0, gt=0)
    """A report unconfirmed for so long means Kafka is away: state coalesces until it is confirmed."""
    delivery_timeout_seconds: float = Field(default=600.0, ge=10)
    """How long a report is tried before its epoch is given up. An outage shorter than this costs no new snapshot."""
    source_stuck_seconds: float = Field(default=60.0, ge=1)
    """A call into the source that takes so long is told as `source_connected: false`."""
    drain_seconds: float = Field(default=3.0, ge=0)
    """How long a stopping agent tries to send what it has observed, and then its farewell. Twice this has to fit into
    `lifecycle.stop_deadline_seconds` with some seconds to spare."""

    def policy(self) -> Policy:
        """When the agent speaks."""
        return Policy(
            heartbeat_seconds=self.heartbeat_seconds,
            relist_seconds=self.relist_seconds,
            snapshot_interval_seconds=self.snapshot_interval_seconds,
            max_in_flight=self.max_in_flight,
            stalled_seconds=self.stalled_seconds,
        )
