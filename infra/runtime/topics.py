"""The topics of a fleet: their names, and the admin that creates and checks them.

Every process names topics by the constants here, turns them into real names with :class:`TopicSet`, and calls
:meth:`TopicAdmin.require` before it reads or writes the first record.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final

import confluent_kafka
import msgspec
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from infra.runtime.errors import ConfigError, DeltavisorError, NeighbourUnreachable, TopicMismatch
from infra.runtime.kafka import make_admin, unreachable, wait_for_answer
from infra.runtime.settings import KafkaSettings, TopicSettings
from infra.runtime.topic_declarations import (
    FoundTopic,
    TopicDeclaration,
    TopicProblem,
    declarations,
    missing_topic,
    problems_of,
)

__all__ = [
    "ALL_TOPICS",
    "DEAD_LETTERS",
    "HOSTS_TABLE",
    "HOST_CHANGES",
    "HOST_INTENTS",
    "HOST_REPORTS",
    "HOST_STATE",
    "RESYNC_REQUESTS",
    "STORAGE_CHANGES",
    "STORAGE_OBSERVATIONS",
    "STORAGE_STATE",
    "VM_CHANGES",
    "VM_INCIDENTS",
    "VM_INTENTS",
    "VM_OBSERVATIONS",
    "VM_STATE",
    "VM_STATS",
    "AppliedTopics",
    "FoundTopic",
    "TopicAdmin",
    "TopicDeclaration",
    "TopicProblem",
    "TopicSet",
]

HOST_REPORTS: Final = "host.reports"
VM_STATS: Final = "vm.stats"
VM_OBSERVATIONS: Final = "vm.observations"
VM_INTENTS: Final = "vm.intents"
HOST_INTENTS: Final = "host.intents"
VM_CHANGES: Final = "vm.changes"
VM_STATE: Final = "vm.state"
VM_INCIDENTS: Final = "vm.incidents"
HOST_CHANGES: Final = "host.changes"
HOST_STATE: Final = "host.state"
STORAGE_OBSERVATIONS: Final = "storage.observations"
STORAGE_CHANGES: Final = "storage.changes"
STORAGE_STATE: Final = "storage.state"
RESYNC_REQUESTS: Final = "resync.requests"
DEAD_LETTERS: Final = "dead.letters"
HOSTS_TABLE: Final = "hosts.table"

ALL_TOPICS: Final = (
    HOST_REPORTS,
    VM_STATS,
    VM_OBSERVATIONS,
    VM_INTENTS,
    HOST_INTENTS,
    VM_CHANGES,
    VM_STATE,
    VM_INCIDENTS,
    HOST_CHANGES,
    HOST_STATE,
    STORAGE_OBSERVATIONS,
    STORAGE_CHANGES,
    STORAGE_STATE,
    RESYNC_REQUESTS,
    DEAD_LETTERS,
    HOSTS_TABLE,
)

_REQUEST_SECONDS = 15.0
"""How long one admin request may take; creating all topics on a small broker needs about one second."""
_PROBE_SECONDS = 5.0
_VISIBLE_SECONDS = 10.0
"""How long a topic just created may stay unknown to the broker we ask."""


class TopicSet(msgspec.Struct, frozen=True, kw_only=True):
    """The topics of one fleet on one broker: what they are called there, and how many partitions each has."""

    prefix: str = ""
    partitions: int = 4
    replication_factor: int = 1
    min_insync_replicas: int = 1

    @classmethod
    def of(cls, kafka: KafkaSettings, topics: TopicSettings) -> TopicSet:
        """The set that these settings describe."""
        return cls(
            prefix=kafka.topic_prefix,
            partitions=topics.partitions,
            replication_factor=topics.replication_factor,
            min_insync_replicas=topics.min_insync_replicas,
        )

    def name(self, topic: str) -> str:
        """The name on the broker of a topic constant. KeyError if it is not declared."""
        if topic not in declarations():
            raise KeyError(topic)
        return self.prefix + topic

    def topic(self, name: str) -> str:
        """The topic constant of a name on the broker. KeyError if it is not one of this set."""
        topic = name.removeprefix(self.prefix)
        if not name.startswith(self.prefix) or topic not in declarations():
            raise KeyError(name)
        return topic


class AppliedTopics(msgspec.Struct, frozen=True, kw_only=True):
    """What :meth:`TopicAdmin.apply` did. Names are those on the broker, in declaration order."""

    created: tuple[str, ...]
    altered: tuple[str, ...]
    unchanged: tuple[str, ...]
    problems: tuple[TopicProblem, ...]
    """What is still wrong; nothing was done about it."""


class TopicAdmin:
    """Creates and checks the topics of one set. Methods take topic constants and raise NeighbourUnreachable."""

    def __init__(self, kafka: KafkaSettings, topics: TopicSettings, *, admin: AdminClient | None = None) -> None:
        self._kafka = kafka
        self._reasons: deque[confluent_kafka.KafkaError] = deque(maxlen=8)
        self._admin = admin if admin is not None else make_admin(kafka, error_cb=self._reasons.append)
        self.topic_set = TopicSet.of(kafka, topics)

    def apply(self, topics: Iterable[str] = ALL_TOPICS, *, alter: bool = False) -> AppliedTopics:
        """Create the topics that are missing; safe to repeat. Existing ones are compared, never silently changed.

        ``alter`` also raises limits that are too low, which loses nothing. Partition counts, cleanup and timestamp type
        are never changed: they come back as problems.
        """
        wanted = tuple(topics)
        found = self.find(wanted)
        created = self._create([topic for topic in wanted if topic not in found])
        if len(found) < len(wanted):
            found = self._find_all(wanted)
        problems = self._check(wanted, found)
        altered: set[str] = set()
        if alter:
            altered = {problem.topic for problem in problems if problem.alter}
            self._alter([problem for problem in problems if problem.alter])
            problems = [problem for problem in problems if not problem.alter]
        names = [found[topic].name for topic in wanted]
        return AppliedTopics(
            created=tuple(created),
            altered=tuple(name for name in names if name in altered),
            unchanged=tuple(name for name in names if name not in altered and name not in created),
            problems=tuple(problems),
        )

    def check(self, topics: Iterable[str] = ALL_TOPICS) -> list[TopicProblem]:
        """Every difference between these topics and their declarations; empty when all can serve."""
        wanted = tuple(topics)
        return self._check(wanted, self.find(wanted))

    def require(self, topics: Iterable[str]) -> Mapping[str, FoundTopic]:
        """The topics as they are, by constant. Raises TopicMismatch with one sentence per problem."""
        wanted = tuple(topics)
        found = self.find(wanted)
        if problems := self._check(wanted, found):
            raise TopicMismatch(". ".join(map(str, problems)), where=f"Kafka at {self._kafka.bootstrap}")
        return found

    def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """The id of each topic that exists, by constant, as canonical UUID text."""
        return {topic: found.topic_id for topic, found in self.find(topics).items()}

    def find(self, topics: Iterable[str]) -> dict[str, FoundTopic]:
        """Those of the topics that exist, by constant, in the order asked."""
        names = {self.topic_set.name(topic): topic for topic in topics}
        self._probe()
        described = self._describe(list(names))
        configs = self._configs(list(described))
        return {
            names[name]: FoundTopic(
                name=name,
                topic_id=_uuid_text(description.topic_id),
                partitions=len(description.partitions),
                configs=configs[name],
            )
            for name, description in described.items()
        }

    def _check(self, wanted: Iterable[str], found: Mapping[str, FoundTopic]) -> list[TopicProblem]:
        problems: list[TopicProblem] = []
        for topic in wanted:
            if topic in found:
                problems += self._compare(topic, found[topic])
            else:
                problems.append(missing_topic(self.topic_set.name(topic)))
        return problems

    def _compare(self, topic: str, found: FoundTopic) -> list[TopicProblem]:
        return problems_of(declarations()[topic], found, partitions=self.topic_set.partitions)

    def _describe(self, names: list[str]) -> dict[str, Any]:
        if not names:
            return {}
        futures = self._admin.describe_topics(confluent_kafka.TopicCollection(names), request_timeout=_REQUEST_SECONDS)
        described = {}
        for name, future in futures.items():
            try:
                described[name] = future.result()
            except confluent_kafka.KafkaException as error:
                if error.args[0].code() != confluent_kafka.KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise self._failed(error) from error
        return described

    def _configs(self, names: list[str]) -> dict[str, dict[str, str]]:
        if not names:
            return {}
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        futures = self._admin.describe_configs(resources, request_timeout=_REQUEST_SECONDS)
        try:
            return {
                resource.name: {name: entry.value for name, entry in future.result().items()}
                for resource, future in futures.items()
            }
        except confluent_kafka.KafkaException as error:
            raise self._failed(error) from error

    def _create(self, topics: list[str]) -> list[str]:
        """Create these, and return the names of those that nobody else created meanwhile."""
        shape = self.topic_set
        new = [
            NewTopic(
                shape.name(topic),
                num_partitions=shape.partitions,
                replication_factor=shape.replication_factor,
                config=declarations()[topic].kafka_configs(min_insync_replicas=shape.min_insync_replicas),
            )
            for topic in topics
        ]
        created = []
        futures = self._admin.create_topics(new, operation_timeout=_REQUEST_SECONDS) if new else {}
        for name, future in futures.items():
            try:
                future.result()
                created.append(name)
            except confluent_kafka.KafkaException as error:
                if error.args[0].code() != confluent_kafka.KafkaError.TOPIC_ALREADY_EXISTS:
                    raise self._failed(error, name) from error
        return created

    def _find_all(self, topics: tuple[str, ...]) -> dict[str, FoundTopic]:
        """All of these, waiting until the broker we ask has heard of those just created."""
        deadline = time.monotonic() + _VISIBLE_SECONDS
        while len(found := self.find(topics)) < len(topics):
            if time.monotonic() > deadline:
                raise NeighbourUnreachable(
                    f"topics just created are still unknown after {_VISIBLE_SECONDS:.0f} s",
                    where=f"Kafka at {self._kafka.bootstrap}",
                    advice="look at the controller's log, then run `deltavisor topics apply` again",
                )
            time.sleep(0.1)
        return found

    def _alter(self, problems: list[TopicProblem]) -> None:
        entries: dict[str, list[ConfigEntry]] = {}
        for problem in problems:
            for config, value in problem.alter.items():
                entry = ConfigEntry(config, value, incremental_operation=AlterConfigOpType.SET)
                entries.setdefault(problem.topic, []).append(entry)
        if not entries:
            return
        resources = [
            ConfigResource(ResourceType.TOPIC, name, incremental_configs=changed) for name, changed in entries.items()
        ]
        for resource, future in self._admin.incremental_alter_configs(resources).items():
            try:
                future.result()
            except confluent_kafka.KafkaException as error:
                raise self._failed(error, resource.name) from error

    def _probe(self) -> None:
        """Fail within seconds when no broker answers, instead of after the long time an admin request may take."""
        wait_for_answer(self._admin, self._kafka, self._reasons, timeout_seconds=_PROBE_SECONDS)

    def _failed(self, error: confluent_kafka.KafkaException, topic: str | None = None) -> DeltavisorError:
        """What to raise for a failed admin request: no answer is transient, a refusal is configuration."""
        reason = error.args[0]
        if reason.code() < 0 or reason.retriable():
            return unreachable(self._kafka, error, list(self._reasons))
        return ConfigError(
            f"Kafka refused the request: {reason.str()} ({reason.name()})",
            where=f"Kafka at {self._kafka.bootstrap}" + (f", topic {topic}" if topic else ""),
            advice="check the permissions of this user, topics.replication_factor and the broker's policies",
        )


def _uuid_text(kafka_uuid: confluent_kafka.Uuid) -> str:
    most, least = kafka_uuid.get_most_significant_bits(), kafka_uuid.get_least_significant_bits()
    mask = 0xFFFF_FFFF_FFFF_FFFF
    return str(uuid.UUID(int=(most & mask) << 64 | least & mask))
