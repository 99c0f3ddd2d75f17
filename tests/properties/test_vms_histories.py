"""For all histories of what hosts may say: what the core of the vms stage publishes holds together, and a crash
between any two rows changes none of it."""

from collections.abc import Iterator
from typing import NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.codec import encode
from schemas.ids import VmId, uuid_text
from schemas.observation import VmObservation
from schemas.status import ALIVE, GoneReason, Status
from schemas.vm_change import VmChange
from streams.runtime.outbox import merge_rows
from streams.runtime.sender import PartitionRow
from streams.runtime.stage import Batch, Input, Output
from streams.vms.core import VmsCore
from streams.vms.ownership import Word, word_of
from streams.vms.rows import heads_of
from tests.unit.streams.vms.scene import Scene, changes_in, facets_of, introduction, run

VMS = [VmId(bytes([0] * 15 + [number])) for number in (1, 2)]
HOSTS = {"1": 0, "2": 1, "3": 0}

SAYINGS = [
    {"status": "up"},
    {"status": "up", "reason": "migrated"},
    {"status": "up", "process": "2"},
    {"status": "powering_up"},
    {"status": "powering_down"},
    {"status": "rebooting"},
    {"status": "starting"},
    {"status": "saving"},
    {"status": "migrating_from", "peer": "1", "phase": "pre_copy"},
    {"status": "migrating_from", "peer": "2", "phase": "pre_copy"},
    {"status": "migrating_from", "peer": "2", "phase": "post_copy"},
    {"status": "migrating_to"},
    {"status": "paused", "pause": "user"},
    {"status": "paused", "pause": "post_copy", "phase": "post_copy", "peer": "3"},
    {"status": "down", "exit_": "normal/migrated"},
    {"status": "down", "exit_": "normal/guest_shutdown"},
    {"status": "down", "exit_": "error/qemu_died"},
    {"status": "down"},
    {"status": "suspended"},
    {"status": "crashed"},
]
EVENTS = ["silent", "stopped", "back", "degraded", "recovered", "confirmed", "confirmed", "new_epoch", "unconfirmed"]


class Say(NamedTuple):
    """One report of a host about one VM."""

    host: str
    vm: int
    saying: int
    events: tuple[str, ...]
    age: int


class Leave(NamedTuple):
    """The VM left the host's list."""

    host: str
    vm: int
    reason: GoneReason


class Snapshot(NamedTuple):
    """A complete inventory, of a new boot perhaps."""

    host: str
    vms: tuple[int, ...]
    boots: bool


class Happen(NamedTuple):
    """Host events alone."""

    host: str
    event: str


class Broken(NamedTuple):
    """A facet that nobody can read."""

    host: str
    vm: int


class Pass(NamedTuple):
    """Seconds go by."""

    ticks: int
    without: int | None


Step = Say | Leave | Snapshot | Happen | Broken | Pass

_hosts = st.sampled_from(sorted(HOSTS))
_vms = st.integers(0, len(VMS) - 1)
steps: st.SearchStrategy[Step] = st.one_of(
    st.builds(
        Say,
        _hosts,
        _vms,
        st.integers(0, len(SAYINGS) - 1),
        st.sampled_from([(), (), (), ("confirmed",), ("back", "confirmed")]),
        st.sampled_from([0, 0, 0, 0, 40, 700]),
    ),
    st.builds(Leave, _hosts, _vms, st.sampled_from(GoneReason)),
    st.builds(Snapshot, _hosts, st.sampled_from([(), (0,), (1,), (0, 1)]), st.booleans()),
    st.builds(Happen, _hosts, st.sampled_from(EVENTS)),
    st.builds(Broken, _hosts, _vms),
    st.builds(Pass, st.sampled_from([1, 5, 15, 70, 400]), st.sampled_from([None, None, None, 0, 1])),
)
histories = st.lists(steps, min_size=5, max_size=60)
quick = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def take(scene: Scene, step: Step) -> None:
    """Let it happen."""
    match step:
        case Say(host, vm, saying, events, age):
            facets = {**introduction(scene, host, VMS[vm]), **facets_of(host, run(host=host, **SAYINGS[saying]))}
            scene.say(host, vms=[VmObservation(VMS[vm], facets)], events=events, age_seconds=age)
        case Leave(host, vm, reason):
            scene.speakers[host].introduced.discard(VMS[vm])
            scene.say(host, vms=[VmObservation(VMS[vm], {}, reason)])
        case Snapshot(host, vms, boots):
            if boots:
                scene.boot(host)
            scene.say(host, inventory=[VMS[vm] for vm in vms], events=["back", "confirmed"])
        case Happen(host, event):
            scene.say(host, events=[event])
        case Broken(host, vm):
            scene.say(host, vms=[VmObservation(VMS[vm], {"devices": b"\xc1"})])
        case Pass(ticks, without):
            scene.tick(ticks, without=[] if without is None else [without], step=min(ticks, 5))


def played(history: list[Step]) -> Iterator[Scene]:
    """The scene after each step."""
    scene = Scene()
    for name, source in HOSTS.items():
        scene.host(name, source)
    scene.tick(12, step=4)
    for step in history:
        take(scene, step)
        yield scene


def last(history: list[Step]) -> Scene:
    *_, scene = played(history)
    return scene


def by_vm(changes: list[VmChange]) -> dict[tuple[str, int], list[VmChange]]:
    """Changes of each incarnation, in the order in which they were published."""
    lives: dict[tuple[str, int], list[VmChange]] = {}
    for change in changes:
        lives.setdefault((change.vm_id, change.incarnation), []).append(change)
    return lives


@quick
@given(histories)
def test_versions_have_no_holes_and_digests_chain(history: list[Step]) -> None:
    newest: dict[str, int] = {}
    for (vm_id, incarnation), life in by_vm(last(history).changes).items():
        assert incarnation > newest.get(vm_id, 0)
        newest[vm_id] = incarnation
        assert [change.version for change in life] == list(range(1, len(life) + 1))
        assert [change.previous_digest for change in life] == [0, *(change.state_digest for change in life[:-1])]
        assert [change.detected_at for change in life] == sorted(change.detected_at for change in life)
        epochs = [change.ownership_epoch for change in life]
        assert epochs == sorted(epochs)


@quick
@given(histories)
def test_a_vm_is_never_down_while_a_host_that_can_be_believed_runs_it(history: list[Step]) -> None:
    for scene in played(history):
        state = scene.core.state
        for vm in state.vms.values():
            if vm.status in (Status.DOWN, Status.CRASHED):
                for claim in vm.rivals():
                    host = state.hosts[claim.host]
                    believed = state.reachable(claim.host) and host.confirmed and not host.late
                    assert not (believed and word_of(claim) is Word.RUNNING)


@quick
@given(histories)
def test_an_alive_row_has_an_owner_whose_claim_is_listed(history: list[Step]) -> None:
    for scene in played(history):
        for vm in scene.core.state.vms.values():
            if vm.status in ALIVE:
                assert vm.owner_claim is not None
            assert (vm.owner is None) is (vm.status is Status.REMOVED)
            assert len({claim.host for claim in vm.claims}) == len(vm.claims)


@quick
@given(histories)
def test_one_change_per_vm_and_piece_of_evidence(history: list[Step]) -> None:
    scene = last(history)
    said = [
        (change.vm_id, change.evidence.partition, change.evidence.offset)
        for change in scene.changes
        if change.evidence.tick is None
    ]
    assert len(set(said)) == len(said)


class Crash(NamedTuple):
    """When the process dies, and what of the last batch was delivered."""

    sizes: list[int]
    """Inputs per batch, over and over."""
    batch: int
    rows: int
    """Of the torn flush; -1: only its outputs."""
    waves: int
    """Batches whose rows the outbox sends in one flush."""


crashes = st.builds(
    Crash,
    st.lists(st.integers(1, 7), min_size=1, max_size=4),
    st.integers(0, 30),
    st.integers(-1, 30),
    st.integers(1, 4),
)


def run_on(core: VmsCore, log: list[Input], sizes: list[int]) -> Iterator[Batch]:
    """Apply the log from where the core is, in batches."""
    at, number = core.applied + 1, 0
    while at < len(log):
        end = min(len(log), at + sizes[number % len(sizes)])
        for record in log[at:end]:
            core.apply(record)
        at, number = end, number + 1
        yield core.seal()


def keyed(outputs: list[Output]) -> dict[tuple[str, int, int], set[bytes]]:
    """Every change by its identity; more than one value is a contradiction."""
    found: dict[tuple[str, int, int], set[bytes]] = {}
    for out, change in zip([out for out in outputs if out.topic == "vm.changes"], changes_in(outputs), strict=True):
        found.setdefault((change.vm_id, change.incarnation, change.version), set()).add(out.value or b"")
    return found


def state_of(core: VmsCore) -> dict[str, object]:
    """Heads, without the place up to which they were written, and the facets' values."""
    return {
        uuid_text(vm.id): (encode(head), [claim.facets for claim in vm.claims])
        for vm, head in zip(core.state.vms.values(), heads_of(core.state, applied=0), strict=True)
    }


@quick
@given(histories, crashes)
def test_a_crash_between_any_two_rows_changes_nothing(history: list[Step], crash: Crash) -> None:
    scene = last(history)
    outputs: list[Output] = []
    loader = scene.stage.loader(0)
    waiting: list[PartitionRow] = []
    for number, batch in enumerate(run_on(scene.stage.loader(0).finish(), scene.log, crash.sizes)):
        outputs += batch.outputs
        waiting += [PartitionRow(0, row) for row in batch.rows]
        torn = number >= crash.batch
        if torn or number % crash.waves == 0:
            flush, waiting = merge_rows(waiting), []
            for _, row in flush[: max(crash.rows, 0)] if torn else flush:
                loader.add(*row)
        if torn:
            break
    core = loader.finish()
    for batch in run_on(core, scene.log, [3]):
        outputs += batch.outputs
    assert keyed(outputs) == keyed(scene.outputs)
    assert state_of(core) == state_of(scene.core)


@quick
@given(histories)
def test_replaying_a_log_gives_the_same_bytes(history: list[Step]) -> None:
    scene = last(history)
    outputs = [out for batch in run_on(scene.stage.loader(0).finish(), scene.log, [5]) for out in batch.outputs]
    assert outputs == scene.outputs
