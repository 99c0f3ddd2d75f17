"""Going back to older rules: what a newer version wrote is made acceptable to an older one, nothing else is touched.

A stage's table says under which rules it was written, and its input may still hold ticks or observations of the newer
ones. Either stops an older worker. So each partition row is written again with the older number, and with the offset
below which inputs may follow newer rules; the rest stays as it is, since a minor only adds fields.

Hosts before vms: what a newer hosts stage goes on to say would stop an older vms stage again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from infra.agreement.topics import messages
from infra.rebuild.rebuild import Say
from infra.rebuild.tables import Opened, Tables, hosts_tables, vms_tables
from infra.rebuild.workers import PATIENCE_SECONDS, group_of, require_stopped
from infra.runtime.errors import ConfigError, NewerVersion, TopicMismatch
from infra.runtime.settings import KafkaSettings, TopicSettings
from infra.runtime.topics import ALL_TOPICS, HOST_REPORTS, VM_OBSERVATIONS, FoundTopic, TopicAdmin, TopicSet
from schemas.codec import SCHEMA_HEADER, NewerMajorError, RecordError, decode, encode
from schemas.host_rows import PARTITION_KEY, PartitionRow
from schemas.intent import INTENT_KEY
from schemas.observation import ObservationBatch
from schemas.rules import RULES_VERSION
from schemas.tick import TICK_KEY
from streams.hosts.ticks import read_tick
from streams.runtime.kept import ADOPT_ADVICE, REBUILD_ADVICE
from streams.runtime.stage import Batch, Input
from streams.vms.rows import VmsPartitionRow

HOSTS, VMS = "hosts", "vms"

RulesOf = Callable[[Input], int]
"""Rules that an input follows; 0 when it follows none, or nobody can read it."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One partition as it was found."""

    partition: int
    rules: int
    """Of its row; 0: there is none."""
    newer_until: int
    """What its row has."""
    needed_until: int
    """Offset behind the last input not yet applied that follows newer rules than those to go back to; 0: none does."""


class Rollback(msgspec.Struct, frozen=True, kw_only=True):
    """What a stage has to go back from."""

    stage: str
    to_rules: int
    found: Mapping[str, FoundTopic]
    standings: Sequence[Standing]

    @property
    def due(self) -> list[Standing]:
        """Partitions that an older worker would refuse."""
        return [one for one in self.standings if one.rules > self.to_rules or one.needed_until > one.newer_until]

    def sentences(self) -> list[str]:
        """What there is and what will be done, for a human."""
        if not self.due:
            return [f"{self.stage}: every partition can be read under rules {self.to_rules}; nothing to do"]
        said = []
        for one in self.due:
            place = f"{self.stage}[{one.partition}]"
            if one.rules > self.to_rules:
                said.append(f"{place} follows rules {one.rules}: it goes back to {self.to_rules}")
            if one.needed_until > one.newer_until:
                said.append(f"{place} has inputs of newer rules before offset {one.needed_until}: they are taken")
        return said


def plan_rollback(
    kafka: KafkaSettings,
    topics: TopicSettings,
    stage: str,
    *,
    to_rules: int = RULES_VERSION,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Rollback:
    """Look at everything, change nothing.

    Raises ConfigError while workers of the stage run, or hosts still has newer rules; TopicMismatch for a table that
    is lost; NewerVersion for a row of a major that this program can not read; NeighbourUnreachable.
    """
    _require_known(to_rules)
    require_stopped(kafka, [group_of(kafka, stage)], patience_seconds=patience_seconds)
    admin = TopicAdmin(kafka, topics)
    found = dict(admin.require(ALL_TOPICS))
    opened = _opened(kafka, topics.partitions, found, stage)
    if stage == VMS:
        _require_hosts_went_back(_opened(kafka, topics.partitions, found, HOSTS), to_rules)
    needed = _needed(kafka, admin.topic_set, stage, opened, to_rules)
    standings = [
        Standing(
            partition=one.partition,
            rules=0 if one.table.kept is None else one.table.kept.rules_version,
            newer_until=one.core.newer_until,
            needed_until=needed.get(one.partition, 0),
        )
        for one in opened
    ]
    return Rollback(stage=stage, to_rules=to_rules, found=found, standings=standings)


def run_rollback(kafka: KafkaSettings, topics: TopicSettings, plan: Rollback, *, say: Say) -> None:
    """Do it, partition by partition. Killed anywhere and run again it ends the same. Raises DeliveryFailed."""
    tables = _tables(kafka, topics.partitions, plan.found, plan.stage)
    for one in plan.due:
        opened = tables.open(one.partition)
        opened.core.newer_until = max(opened.core.newer_until, one.needed_until)
        opened.core.touch()
        tables.write(one.partition, _under(plan.to_rules, plan.stage, opened.core.seal()), last=True)
        say(f"{plan.stage}[{one.partition}] is back at rules {plan.to_rules}")


def _require_known(to_rules: int) -> None:
    if not 1 <= to_rules <= RULES_VERSION:
        raise ConfigError(
            f"rules {to_rules} are not known, this program has {RULES_VERSION}",
            where="--to-rules",
            advice="run the command of the version that is to work from now on",
        )


def _tables(kafka: KafkaSettings, partitions: int, found: Mapping[str, FoundTopic], stage: str) -> Tables[Any]:
    if stage == HOSTS:
        return hosts_tables(kafka, partitions, found, newer_rules=True)
    return vms_tables(kafka, partitions, found, newer_rules=True)


def _opened(kafka: KafkaSettings, partitions: int, found: Mapping[str, FoundTopic], stage: str) -> list[Opened[Any]]:
    """Every partition, as this program reads it: so an older one that can not read it is noticed here."""
    tables = _tables(kafka, partitions, found, stage)
    opened = []
    for partition in range(partitions):
        where = f"{kafka.topic_prefix}{tables.stage.table_topic}[{partition}]"
        try:
            one = tables.open(partition)
        except NewerMajorError as error:
            advice = "this version can not go on with that table; use the newer one"
            raise NewerVersion(str(error), where=where, advice=advice) from error
        except RecordError as error:
            raise TopicMismatch(str(error), where=where, advice=REBUILD_ADVICE) from error
        if one.loss is not None:
            raise TopicMismatch(one.loss, where=where, advice=REBUILD_ADVICE)
        if one.foreign:
            raise TopicMismatch("the input is another than the table's", where=where, advice=ADOPT_ADVICE)
        opened.append(one)
    return opened


def _require_hosts_went_back(opened: Iterable[Opened[Any]], to_rules: int) -> None:
    for one in opened:
        if one.table.kept is not None and one.table.kept.rules_version > to_rules:
            raise ConfigError(
                f"it follows rules {one.table.kept.rules_version}, and would stop vms again",
                where=f"hosts[{one.partition}]",
                advice=f"stop its workers and run `deltavisor stream rollback hosts --to-rules {to_rules}` first",
            )


def _needed(
    kafka: KafkaSettings, topics: TopicSet, stage: str, opened: Sequence[Opened[Any]], to_rules: int
) -> dict[int, int]:
    """Per partition the offset behind the last unread input of newer rules."""
    starts = {one.partition: max(one.core.applied + 1, one.bounds.start) for one in opened}
    rules_of: RulesOf = rules_of_tick if stage == HOSTS else rules_of_observations
    input_topic = HOST_REPORTS if stage == HOSTS else VM_OBSERVATIONS
    needed: dict[int, int] = {}
    for message in messages(kafka, topics, input_topic, starts):
        partition, offset = message.partition(), message.offset()
        if partition is None or offset is None:
            continue
        schema = dict(message.headers() or []).get(SCHEMA_HEADER)
        given = Input(partition, offset, 0, message.key(), message.value() or b"", schema)
        try:
            newer = rules_of(given) > to_rules
        except NewerMajorError as error:
            where = f"{topics.name(input_topic)}[{partition}]@{offset}"
            advice = "let the newer version read up to here, then stop it and try again"
            raise NewerVersion(str(error), where=where, advice=advice) from error
        if newer:
            needed[partition] = offset + 1
    return needed


def rules_of_tick(given: Input) -> int:
    """Rules of whoever wrote this tick of host.reports; 0 for anything else."""
    tick = read_tick(given) if given.key == TICK_KEY else None
    return 0 if tick is None else tick.rules_version


def rules_of_observations(given: Input) -> int:
    """Rules by which these observations were made; 0 for anything else. Raises NewerMajorError."""
    if given.key == INTENT_KEY:
        return 0
    try:
        return decode(ObservationBatch, given.value, given.schema).rules_version
    except NewerMajorError:
        raise
    except RecordError:
        return 0


def _under(to_rules: int, stage: str, batch: Batch) -> Batch:
    """The batch with the partition row under these rules."""
    *details, own = batch.rows
    if own.key != PARTITION_KEY or own.value is None:
        raise TypeError(f"the last row of a batch of {stage} is not the partition's")
    row = decode(PartitionRow if stage == HOSTS else VmsPartitionRow, own.value, own.schema)
    value = encode(msgspec.structs.replace(row, rules_version=to_rules))
    return batch._replace(rows=[*details, own._replace(value=value)])
