"""The vms stage as the runtime takes it (`streams.runtime.stage.Stage`)."""

from collections.abc import Iterable, Mapping
from typing import Final

from streams.runtime.settings import StreamSettings, VmsStreamSettings
from streams.vms.emit import VM_CHANGES
from streams.vms.intents import VM_INTENTS
from streams.vms.letters import DEAD_LETTERS, VM_OBSERVATIONS
from streams.vms.loading import VmsLoader
from streams.vms.repairs import RESYNC_REQUESTS

VM_STATE: Final = "vm.state"

METRICS: Final = (
    "changes",
    "dead_letters_records",
    "facet_sums",
    "intents_records",
    "observation_gaps",
    "offset_gaps",
    "quarantines",
    "rejected_facets",
    "repeats_records",
    "resyncs",
)


class VmsStage:
    """Reads vm.observations; its table is vm.state itself."""

    name: str = "vms"
    inputs: tuple[str, ...] = (VM_OBSERVATIONS,)
    table_topic: str = VM_STATE
    outputs: tuple[str, ...] = (VM_CHANGES, RESYNC_REQUESTS, DEAD_LETTERS)

    def __init__(
        self,
        partitions: int,
        topic_ids: Mapping[str, str],
        *,
        another_log: frozenset[int] = frozenset(),
        newer_rules: bool = False,
        intent_secret: bytes = b"",
    ) -> None:
        """`another_log`: partitions of vm.observations to be taken for another log than their table's.

        `newer_rules`: also take a table that newer rules wrote.
        `intent_secret`: key of the copies of intents; without it none is believed.
        """
        self.intent_secret = intent_secret
        self.intents_topic = VM_INTENTS
        self.intents_topic_id = topic_ids.get(VM_INTENTS, "")
        self._another_log = another_log
        self._newer_rules = newer_rules
        self._partitions = partitions
        self._topic_ids = dict(topic_ids)

    def loader(self, partition: int) -> VmsLoader:
        """A loader for an assigned partition."""
        return VmsLoader(
            partition,
            self._partitions,
            self._topic_ids,
            another_log=partition in self._another_log,
            newer_rules=self._newer_rules,
            intent_secret=self.intent_secret,
        )

    def metric_names(self) -> Iterable[str]:
        """Names that `drain_counts` may use."""
        return METRICS


def build(settings: StreamSettings, partitions: int, topic_ids: Mapping[str, str]) -> VmsStage:
    """The stage for topics of so many partitions. `topic_ids`: topic constant -> id of the topic as it is now."""
    secret = settings.intent_secret if isinstance(settings, VmsStreamSettings) else b""
    return VmsStage(partitions, topic_ids, intent_secret=secret)
