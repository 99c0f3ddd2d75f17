"""The whole of a rebuild and of an adoption, as the commands run them: look, say, ask, do."""

from __future__ import annotations

from pathlib import Path

import msgspec

from infra.agreement.topics import messages
from infra.rebuild import adopt, from_dump, from_postgres, sink
from infra.rebuild.known import Known
from infra.rebuild.rebuild import Rebuild, Rebuilt, Say, Standing, begun_at, look_at_hosts, look_at_vms
from infra.rebuild.tables import hosts_tables, vms_tables
from infra.rebuild.workers import STAGES, group_of, log_bounds, require_stopped, set_offsets
from infra.runtime.errors import ConfigError, TopicMismatch
from infra.runtime.settings import KafkaSettings, TopicSettings
from infra.runtime.topics import ALL_TOPICS, HOST_CHANGES, VM_CHANGES, FoundTopic, TopicAdmin
from schemas.codec import SCHEMA_HEADER, decode
from schemas.host_change import HostChange
from schemas.vm_change import VmChange
from sinks.postgres.positions import BEFORE_THE_START, Position
from sinks.postgres.settings import Database


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """Where everything is. `database` None: there is no sink, or it is left alone."""

    kafka: KafkaSettings
    topics: TopicSettings
    database: Database | None = None
    sink_group: str = "deltavisor-sink-postgres"

    @property
    def groups(self) -> list[str]:
        """Consumer groups of all that must not run."""
        return [*(group_of(self.kafka, stage) for stage in STAGES), self.sink_group]


class RebuildPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a rebuild found, before anything was changed but topics that were missing."""

    found: dict[str, FoundTopic]
    known: Known
    hosts: list[Standing]
    vms: list[Standing]
    log: int
    sink_state: sink.SinkState | None

    def sentences(self) -> list[str]:
        """What there is and what will be done, for a human."""
        said = [f"known: {len(self.known.vms)} VMs and {len(self.known.hosts)} hosts"]
        for one in (*self.hosts, *self.vms):
            name = "hosts.table" if one.stage == "hosts" else "vm.state"
            what = "hosts" if one.stage == "hosts" else "VMs"
            if one.loss is not None:
                said.append(f"{name}[{one.partition}] is lost ({one.loss}); it has {one.subjects} {what}")
            elif one.foreign:
                said.append(f"{name}[{one.partition}] has {one.subjects} {what}; its input was created again")
            else:
                said.append(f"{name}[{one.partition}] is whole with {one.subjects} {what}: only what it lacks is added")
        said.append("what is taken in begins a new incarnation, unknown/rebuilding, and every host is asked for all")
        if self.sink_state is not None:
            said.append("the sink's positions will follow the topics as they are now")
        return said


def plan_rebuild(fleet: Fleet, *, dump: Path | None = None, say: Say) -> RebuildPlan:
    """Look at everything. Creates missing topics.

    Raises ConfigError while workers run or when nothing is known, TopicMismatch, NeighbourUnreachable and the rest.
    """
    require_stopped(fleet.kafka, fleet.groups)
    admin = TopicAdmin(fleet.kafka, fleet.topics)
    applied = admin.apply(ALL_TOPICS)
    if applied.problems:
        raise TopicMismatch("; ".join(map(str, applied.problems)), where=f"Kafka at {fleet.kafka.bootstrap}")
    if applied.created:
        say(f"created {len(applied.created)} topics")
        for topic in ALL_TOPICS:
            log_bounds(fleet.kafka, topic, fleet.topics.partitions)
    found = dict(admin.require(ALL_TOPICS))
    partitions = fleet.topics.partitions
    known, sink_state = Known(), None
    if dump is not None:
        header = from_dump.read_fleet(dump, known)
        if header.partitions != partitions:
            say(f"the dump is of {header.partitions} partitions, the topics have {partitions}: VMs are spread anew")
    if fleet.database is not None:
        from_postgres.read_fleet(fleet.database, known)
        sink_state = sink.read_sink(fleet.database, fleet.kafka)
        _follow(fleet, found, sink_state, known, admin)
    if not known.vms and not known.hosts:
        raise ConfigError(
            "nothing is known of any VM or host, so there is nothing to rebuild from",
            where="the database" if dump is None else str(dump),
            advice="name the right database or another dump; a fleet that is new needs no rebuild",
        )
    hosts = look_at_hosts(hosts_tables(fleet.kafka, partitions, found), partitions)
    vms, log = look_at_vms(vms_tables(fleet.kafka, partitions, found), partitions)
    return RebuildPlan(
        found=found, known=known, hosts=hosts, vms=vms, log=max(known.log, log) + 1, sink_state=sink_state
    )


def _follow(fleet: Fleet, found: dict[str, FoundTopic], state: sink.SinkState, known: Known, admin: TopicAdmin) -> None:
    """Changes that the sink has not read yet are known too."""
    starts = sink.starts_of(fleet.kafka, VM_CHANGES, found[VM_CHANGES], state)
    for message in messages(fleet.kafka, admin.topic_set, VM_CHANGES, starts):
        known.follow_vm(decode(VmChange, message.value(), dict(message.headers() or []).get(SCHEMA_HEADER)))
    starts = sink.starts_of(fleet.kafka, HOST_CHANGES, found[HOST_CHANGES], state)
    for message in messages(fleet.kafka, admin.topic_set, HOST_CHANGES, starts):
        known.follow_host(decode(HostChange, message.value(), dict(message.headers() or []).get(SCHEMA_HEADER)))


def run_rebuild(fleet: Fleet, plan: RebuildPlan, *, now_seconds: float, say: Say) -> Rebuilt:
    """Do it. Killed anywhere and run again it ends the same. Raises DeliveryFailed, NeighbourUnreachable."""
    partitions = fleet.topics.partitions
    hosts = hosts_tables(fleet.kafka, partitions, plan.found, log=plan.log)
    vms = vms_tables(fleet.kafka, partitions, plan.found)
    at = begun_at([*plan.hosts, *plan.vms], now_seconds)
    work = Rebuild(plan.known, partitions, log=plan.log, at=at, say=say)
    work.announce(hosts, plan.hosts)
    work.announce(vms, plan.vms)
    work.hosts(hosts)
    work.vms(vms)
    for tables in (hosts, vms):
        set_offsets(fleet.kafka, tables.group, tables.input_topic, work.done.offsets.get(tables.stage.name, {}))
    if fleet.database is not None and plan.sink_state is not None:
        topic_set = TopicAdmin(fleet.kafka, fleet.topics).topic_set
        heads = {VM_CHANGES: work.done.vm_heads, HOST_CHANGES: work.done.host_heads}
        moved = sink.plan_positions(fleet.kafka, topic_set, plan.found, plan.sink_state, heads)
        sink.move(fleet.database, moved)
        say(f"sink: {len(moved)} positions moved")
    return work.done


class AdoptionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be adopted."""

    found: dict[str, FoundTopic]
    stages: adopt.Adoption
    positions: list[Position]

    @property
    def empty(self) -> bool:
        """Nothing to do."""
        return not (self.stages.hosts or self.stages.vms or self.positions)

    def sentences(self) -> list[str]:
        """What will be done, for a human."""
        said = []
        for topic, partitions in (("host.reports", self.stages.hosts), ("vm.observations", self.stages.vms)):
            if partitions:
                said.append(
                    f"{topic}: partitions {sorted(partitions)} are another log than the tables know; they are adopted, "
                    "nothing is confirmed and every host is asked for a whole snapshot"
                )
        for one in self.positions:
            how = "whole states are taken first" if one.next_offset == BEFORE_THE_START else "changes follow"
            said.append(f"{one.topic}[{one.part}]: the sink's position goes to the start of the topic, {how}")
        return said


def plan_adoption(fleet: Fleet) -> AdoptionPlan:
    """Look at everything, change nothing. Raises as `plan_rebuild`; TopicMismatch when a table is lost."""
    require_stopped(fleet.kafka, fleet.groups)
    admin = TopicAdmin(fleet.kafka, fleet.topics)
    found = dict(admin.require(ALL_TOPICS))
    stages = adopt.look(fleet.kafka, fleet.topics.partitions, found)
    positions: list[Position] = []
    if fleet.database is not None:
        state = sink.read_sink(fleet.database, fleet.kafka)
        heads = {VM_CHANGES: stages.vm_heads, HOST_CHANGES: stages.host_heads}
        positions = sink.plan_positions(fleet.kafka, admin.topic_set, found, state, heads)
    return AdoptionPlan(found=found, stages=stages, positions=positions)


def run_adoption(fleet: Fleet, plan: AdoptionPlan) -> None:
    """Do it; killed anywhere and run again it ends the same."""
    adopt.adopt(fleet.kafka, fleet.topics.partitions, plan.found, plan.stages)
    if fleet.database is not None:
        sink.move(fleet.database, plan.positions)
