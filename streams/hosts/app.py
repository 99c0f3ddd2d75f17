"""The hosts stage as the runtime runs it: settings and topic names in, a `TickedStage` out."""

from collections.abc import Iterable, Mapping

from infra.runtime import topics
from schemas.rules import RULES_VERSION
from streams.hosts.core import HostsConfig
from streams.hosts.counting import METRICS
from streams.hosts.emit import HostsTopics
from streams.hosts.loader import HostsLoader
from streams.hosts.policy import HostsPolicy
from streams.runtime.settings import HostsStreamSettings

TOPICS = HostsTopics(
    reports=topics.HOST_REPORTS,
    table=topics.HOSTS_TABLE,
    observations=topics.VM_OBSERVATIONS,
    changes=topics.HOST_CHANGES,
    state=topics.HOST_STATE,
    resync=topics.RESYNC_REQUESTS,
    dead_letters=topics.DEAD_LETTERS,
)


class HostsStage:
    """Reads host.reports, says vm.observations; a `streams.runtime.stage.TickedStage`."""

    def __init__(self, config: HostsConfig) -> None:
        self._config = config
        names = config.topics
        self.name = "hosts"
        self.inputs: tuple[str, ...] = (names.reports,)
        self.table_topic = names.table
        self.outputs: tuple[str, ...] = (
            names.observations,
            names.changes,
            names.state,
            names.resync,
            names.dead_letters,
        )
        self.rules_version = RULES_VERSION

    def loader(self, partition: int) -> HostsLoader:
        """See Stage."""
        return HostsLoader(self._config, partition)

    def metric_names(self) -> Iterable[str]:
        """See Stage."""
        return METRICS


def policy_of(settings: HostsStreamSettings) -> HostsPolicy:
    """The rule book's numbers with what a user may set."""
    grace = settings.grace
    return HostsPolicy(
        sum_ticks=settings.sum_ticks,
        grace_base_ticks=grace.base_ticks,
        grace_ticks_per_vm=grace.ticks_per_vm,
        grace_max_ticks=grace.most_ticks,
    )


def build(
    settings: HostsStreamSettings,
    partitions: int,
    topic_ids: Mapping[str, str],
    *,
    policy: HostsPolicy | None = None,
) -> HostsStage:
    """The stage of a fleet. `topic_ids`: by topic constant; KeyError without that of host.reports."""
    return HostsStage(
        HostsConfig(
            topics=TOPICS,
            partitions=partitions,
            tick_secret=settings.tick_secret,
            reports_topic_id=topic_ids[topics.HOST_REPORTS],
            state_topic_id=topic_ids.get(topics.HOST_STATE, ""),
            policy=policy or policy_of(settings),
        )
    )
