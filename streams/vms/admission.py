"""Admission: evidence of one host about one VM becomes its claim (rules A1 to A5).

Facets are read here and nowhere else. What is equal to what the claim holds, by normalised fingerprint, is no news.
"""

from sys import intern

import msgspec

from schemas.facets.guest import Guest
from schemas.facets.run import Run
from schemas.ids import uuid_bytes, uuid_text
from schemas.observation import ReportObservations, VmObservation
from schemas.status import ALIVE, Status
from streams.vms.facets import (
    NO_FACETS,
    NO_RAW,
    RUN,
    SLOT_OF,
    MalformedFacet,
    pack,
    raw_mark,
    raw_of,
    read,
    reading,
    rejected,
    same,
    value_of,
    with_raw,
)
from streams.vms.letters import reject_facet
from streams.vms.merging import merge
from streams.vms.state import Claim, Host, Vm
from streams.vms.turn import Turn


class News:
    """What is new in an observation, and what the claim said before."""

    __slots__ = ("boot_before", "changed", "first", "guest_answered", "process_before", "run", "status_before")

    def __init__(self, claim: Claim, *, first: bool) -> None:
        self.first = first
        """This host did not list the VM before, or not alive."""
        self.status_before = claim.status
        self.process_before = claim.process_id
        self.boot_before = claim.boot
        self.run: Run | None = None
        """The run facet, if it changed."""
        self.guest_answered = False
        """The guest agent answers in this very observation."""
        self.changed = False


def is_repeat(turn: Turn, claim: Claim | None) -> bool:
    """At or below the position of this host's claim (A1)."""
    return claim is not None and turn.position <= (claim.log, claim.offset)


Sent = tuple[int, bytes, bytes]
"""A facet that the claim does not know byte by byte: slot, raw mark, data."""


def sent_facets(turn: Turn, claim: Claim | None, observation: VmObservation) -> list[Sent]:
    """The facets that are not what the claim holds already, by slot: `run` stands before what depends on it."""
    known = NO_FACETS if claim is None or claim.borrowed or turn.force else claim.facets
    vm_id = observation.vm_id
    sent: list[Sent] = []
    for name, data in observation.facets.items():
        slot = SLOT_OF.get(name)
        if slot is None:
            turn.state.count("rejected_facets", "unknown")
            continue
        raw = raw_mark(vm_id, slot, data)
        packed = known[slot]
        if packed is None or raw_of(packed) != raw:
            sent.append((slot, raw, data))
    if len(sent) > 1:
        sent.sort()
    return sent


def has_news(claim: Claim, report: ReportObservations, observation: VmObservation, sent: list[Sent]) -> bool:
    """False for what the claim knows already: the cheap and by far most frequent end of a repair."""
    if sent or claim.borrowed or report.force or claim.boot != report.boot_id:
        return True
    return claim.ended != (observation.gone is not None)


def admit(turn: Turn, vm: Vm, claim: Claim, host: Host, observation: VmObservation, sent: list[Sent]) -> News:
    """Take over what the host says into its claim. Opens nothing: the caller has."""
    news = News(claim, first=claim.ended or not claim.alive or claim.borrowed)
    if claim.borrowed:
        claim.borrowed = False
        turn.state.set_facets(vm, claim, NO_FACETS)
    if turn.force:
        _forget_raw(claim)
    boot = turn.proof.boot
    same_boot = boot == claim.boot
    for one in sent:
        _take_facet(turn, vm, claim, host, one, news, same_boot=same_boot)
    if boot is not None and not same_boot and (observation.gone is None or news.run is not None):
        # A VM that only leaves the list was not there in this boot.
        claim.boot = host.boot if host.boot == boot else boot
        news.changed = True
    if claim.ended and observation.gone is None:
        turn.state.list_claim(vm, claim)
        news.changed = True
    if news.run is not None:
        take_run(claim, news.run)
    claim.log, claim.offset = turn.position
    claim.appended_at = turn.proof.appended_at
    claim.seen = turn.seen
    return news


def _take_facet(turn: Turn, vm: Vm, claim: Claim, host: Host, sent: Sent, news: News, *, same_boot: bool) -> None:
    slot, raw, data = sent
    known = claim.facets[slot]
    try:
        facet = read(slot, data)
    except MalformedFacet as problem:
        _set(claim, slot, rejected(raw, known))
        reject_facet(turn, vm, host, slot, data, str(problem))
        return
    if same_boot and _same_process(claim, news):
        before = _held(turn, slot, known)
        if before is not None:
            facet = merge(before, facet)
    packed = pack(raw, facet, turn.readings)
    if known is not None and same(known, packed):
        if not turn.force or value_of(known) == value_of(packed):
            _set(claim, slot, with_raw(raw, known))
            return
        # The fingerprint says equal, the bytes differ: in noted fields, or because our row is damaged.
        _set(claim, slot, packed)
        turn.state.dirty_facets[(vm.id, claim.host, slot)] = None
        return
    _set(claim, slot, packed)
    turn.state.dirty_facets[(vm.id, claim.host, slot)] = None
    news.changed = True
    if slot == RUN and isinstance(facet, Run):
        news.run = facet
    elif isinstance(facet, Guest):
        news.guest_answered = facet.agent_connected is True


def _forget_raw(claim: Claim) -> None:
    """What the host says now is all it says: facets that it does not name keep their values, and count in no sum."""
    claim.facets = tuple(None if packed is None else with_raw(NO_RAW, packed) for packed in claim.facets)


def _held(turn: Turn, slot: int, packed: bytes | None) -> msgspec.Struct | None:
    """The facet as we hold it; None when we hold none, or our row is damaged."""
    try:
        return reading(slot, packed, turn.readings)
    except MalformedFacet:
        return None


def _same_process(claim: Claim, news: News) -> bool:
    """Read before the claim takes over the new run facet; without one the process is the one it had."""
    return news.run is None or news.run.process_id is None or news.run.process_id == claim.process_id


def _set(claim: Claim, slot: int, packed: bytes) -> None:
    claim.facets = (*claim.facets[:slot], packed, *claim.facets[slot + 1 :])


def take_run(claim: Claim, run: Run) -> None:
    """Remember the host's own word."""
    # A host that says `removed` can only mean that the VM does not run there: leaving its list is said by `gone`.
    status = Status.DOWN if run.status is Status.REMOVED else run.status
    alive = status in ALIVE
    claim.status = status
    claim.reason = None if run.reason is None else intern(run.reason)
    claim.pause_reason = run.pause_reason
    claim.exit_reason = run.exit_reason
    if run.process_id is not None:
        claim.process_id = run.process_id
    migration = run.migration
    if migration is not None:
        claim.peer = _host_id_text(migration.peer) or claim.peer
        claim.phase = migration.phase
    elif alive:
        claim.peer = claim.phase = None


def _host_id_text(peer: str | None) -> str | None:
    """Canonical text of a peer; hosts name what they know, which need not be an id."""
    if peer is None:
        return None
    try:
        return uuid_text(uuid_bytes(peer))
    except ValueError:
        return None
