"""Oracle of vm.changes: every word of an owner is published exactly once (I1, I3), nothing else is, and in order.

One partition at a time: the accepted statements, in the order in which vm.observations carries them, are folded into
claims (`claims`), and the VM's changes are laid beside them by their evidence. What the log determines is compared
exactly; what depends on the moment of a tick (when a loss is believed, which of two hosts gets a VM) is taken from
the changes themselves and only has to be possible:

- after each statement of the owner the facets that the VM shows (normal forms) are those last published, or there is
  exactly one change with this report as evidence after which they are: else `lost`, `duplicated`, `differing`;
- a VM whose owner no longer has it alive is not shown alive and known: else `lost` (gone, down);
- when a host falls silent, is back, or speaks with two voices, each of its VMs shows it: else `lost` (H2b, I7);
- an unknown VM with a readable `run` facet is created by that very statement, and a removed one that its old host
  lists again is born again: else `lost`;
- the evidence of a change was accepted and heard, its host, boot, seq, times are the record's, and changes come in
  the order in which their evidence was heard: else `foreign`, `differing`, `out_of_order`;
- a change of owner raises the epoch by one, goes to a host that said something of the VM or to a destination that was
  never heard, and the status is one that the owner's claim allows; silence ends no run (I7).

A VM with a finding is not followed further, so that one loss is one finding.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.verifier.admission import Admission
from tests.verifier.changes import Change
from tests.verifier.claims import Claim
from tests.verifier.facets import ALIVE, ENDED
from tests.verifier.findings import Finding, Kind, Report
from tests.verifier.hearing import HOST_DOUBTS, Hearing, Letters, Watched
from tests.verifier.logs import HOST_REPORTS, VM_CHANGES
from tests.verifier.observations import Heard, Listener
from tests.verifier.records import raw_of, text_of

_MAY_BE_UP = frozenset({"powering_up", "rebooting"})
Trigger = tuple[int, int, str | int | None]
"""(source, offset, host), since several hosts may fall silent at one tick; (source, -1, tick) for what became due."""


def trigger_of(change: Change) -> Trigger:
    """What a change names as its evidence."""
    evidence = change.evidence
    if evidence.offset < 0:
        return evidence.partition, evidence.offset, evidence.tick
    return evidence.partition, evidence.offset, evidence.host


def is_elsewhere(change: Change) -> bool:
    """Made by another log (an intent), or by a gap in this one: it may stand anywhere between its neighbours."""
    evidence = change.evidence
    return evidence.topic != HOST_REPORTS or (evidence.offset < 0 and evidence.tick is None)


class Oracle:
    """One partition of the vms stage, followed from its inputs and its changes."""

    def __init__(
        self,
        report: Report,
        admission: Admission,
        letters: Letters,
        partition: int,
        changes: Iterable[tuple[int, Change]],
    ) -> None:
        self._report, self._admission, self._partition = report, admission, partition
        self._hearing = Hearing(letters)
        self._by_trigger: dict[Trigger, list[bytes]] = {}
        for offset, change in changes:
            vm = raw_of(change.subject)
            self._hearing.watched(vm).changes.append((offset, change))
            self._by_trigger.setdefault(trigger_of(change), []).append(vm)

    def listener(self) -> Listener:
        """What `Observations.read` hands on to."""
        return Listener(self.hear, self.hear_clock)

    def hear(self, heard: Heard) -> None:
        """Apply one report."""
        touched = self._hearing.apply(heard)
        trigger = (heard.source, heard.offset, text_of(heard.host))
        touched.update(dict.fromkeys(self._by_trigger.get(trigger, ())))
        for vm in touched:
            self._settle(vm, trigger)

    def hear_clock(self, source: int, tick: int) -> None:
        """Apply what a tick made due."""
        trigger: Trigger = (source, -1, tick)
        for vm in self._by_trigger.pop(trigger, ()):
            self._settle(vm, trigger)

    def close(self) -> None:
        """Everything was heard: changes that found no evidence are foreign."""
        for vm, watched in self._hearing.vms.items():
            while not watched.lost_sight and (change := watched.next) is not None:
                if is_elsewhere(change):
                    watched.at += 1
                    continue
                source, offset, who = trigger_of(change)
                place = f"host.reports[{source}]@{offset}" if offset >= 0 else f"tick {who} of host.reports[{source}]"
                what = f"nothing that was accepted explains it: {place} was not heard here, or not of this VM"
                self._found(Kind.FOREIGN, "I1", what, vm, watched, change)

    # What is published.

    def _settle(self, vm: bytes, trigger: Trigger) -> None:
        """The turn of this evidence is over: either a change names it, or nothing may differ."""
        watched = self._hearing.vms[vm]
        while not watched.lost_sight and (change := watched.next) is not None and is_elsewhere(change):
            self._follow(vm, watched, change)
        if watched.lost_sight:
            return
        change = watched.next
        if change is not None and trigger_of(change) == trigger:
            self._follow(vm, watched, change)
            self._refuse_second(vm, watched, trigger)
        elif vm in self._by_trigger.get(trigger, ()) and any(
            trigger_of(later) == trigger for _, later in watched.changes[watched.at :]
        ):
            self._found(
                Kind.OUT_OF_ORDER, "I1", "its evidence comes after that of a later version", vm, watched, change
            )
        elif what := self._unpublished(watched):
            self._lost(vm, watched, trigger, what)

    def _refuse_second(self, vm: bytes, watched: Watched, trigger: Trigger) -> None:
        change = watched.next
        if change is not None and trigger[1] >= 0 and trigger_of(change) == trigger and not watched.lost_sight:
            what = f"host.reports[{trigger[0]}]@{trigger[1]} has made a version of this VM already"
            self._found(Kind.DUPLICATED, "I3", what, vm, watched, change)

    def _unpublished(self, watched: Watched) -> str | None:
        """What the VM should show and does not; None when everything is as published."""
        now = watched.now
        if now is None:
            return "the VM was never published" if watched.claims else None
        if "quarantined" in now.belief[2]:
            return None  # something that was said of it is in dead.letters
        if now.status == "removed":
            again = any(one.buried and one.values and not one.ended for one in watched.claims.values())
            return "a host that had it lists it again, and it is still removed" if again else None
        claim = None if watched.owner is None else watched.claims.get(watched.owner)
        if claim is None:
            return "its owner has no claim"
        differs = self._differing(watched.facets, claim.shown(now.status))
        if differs:
            return f"facets {', '.join(differs)} of its owner were not published"
        if now.status in ALIVE and now.belief[0] == "known" and not claim.alive:
            return f"it is shown {now.status} and known, its owner no longer has it alive"
        doubts, shown = self._doubts(watched, claim), frozenset(now.belief[2]) & HOST_DOUBTS
        return None if doubts == shown else f"its host is {sorted(doubts)}, it shows {sorted(shown)}"

    def _doubts(self, watched: Watched, claim: Claim) -> frozenset[str]:
        host = None if watched.owner is None or claim.ended else self._hearing.hosts.get(watched.owner)
        return frozenset() if host is None else host.doubts

    @staticmethod
    def _differing(published: dict[str, int], shown: dict[str, int]) -> list[str]:
        if published == shown:
            return []
        names = published.keys() | shown.keys()
        return sorted(name for name in names if published.get(name) != shown.get(name))

    def _follow(self, vm: bytes, watched: Watched, change: Change) -> None:
        """Take the change as the VM's state, and see that it is what the claims make of it."""
        self._report.looked_at["changes explained"] += 1
        before = watched.now
        reborn = before is not None and change.incarnation != before.incarnation
        self._check_evidence(vm, watched, change, before)
        if reborn:
            watched.facets = {}
        for name, marks in change.facets.items():
            if marks is None:
                watched.facets.pop(name, None)
            else:
                watched.facets[name] = marks.normal
        self._change_owner(vm, watched, change, before)
        watched.at, watched.now = watched.at + 1, change
        claim = None if watched.owner is None else watched.claims.get(watched.owner)
        if claim is not None and claim.ended and change.status not in ALIVE:
            claim.keep_when_gone()
        if watched.lost_sight or is_elsewhere(change):
            return
        if what := self._unpublished(watched):
            self._found(Kind.DIFFERING, "I1", what, vm, watched, change)
        elif claim is not None and not _possible(claim, change):
            what = f"is {change.status}, its owner says {claim.status}{' and lists it no more' if claim.ended else ''}"
            self._found(Kind.DIFFERING, "I1", what, vm, watched, change)

    def _change_owner(self, vm: bytes, watched: Watched, change: Change, before: Change | None) -> None:
        owner = None if change.owner is None else raw_of(change.owner)
        fresh = before is None or change.incarnation != before.incarnation
        if change.status == "removed":
            for claim in watched.claims.values():
                claim.values, claim.buried = {}, True
            watched.owner = None
            return
        epoch = 0 if before is None else int(before.look[3])
        moved = fresh or owner != watched.owner
        if int(change.look[3]) != (epoch + 1 if moved else epoch):
            what = f"ownership epoch {change.look[3]} after {epoch}, the owner {'changed' if moved else 'is the same'}"
            self._found(Kind.DIFFERING, "I1", what, vm, watched, change)
        elif owner is None:
            self._found(Kind.DIFFERING, "I1", "nobody owns it, and it is not removed", vm, watched, change)
        elif moved:
            self._move(vm, watched, change, owner, fresh=fresh)

    def _move(self, vm: bytes, watched: Watched, change: Change, owner: bytes, *, fresh: bool) -> None:
        old = None if watched.owner is None else watched.claims.get(watched.owner)
        claim = watched.claims.get(owner)
        unheard = claim is None or (not fresh and not claim.alive)
        if unheard and not (change.cause == "handed_over" and old is not None):
            what = f"given to host {change.owner}, which never said that it has this VM"
            self._found(Kind.FOREIGN, "I1", what, vm, watched, change)
            return
        if unheard and old is not None:
            watched.claims[owner] = old.lend()
            if owner in self._hearing.hosts:
                watched.claims[owner].boot = self._hearing.hosts[owner].boot
                self._hearing.hosts[owner].claimed.add(vm)
        if old is not None and old.ended and watched.owner is not None and watched.owner != owner:
            watched.claims.pop(watched.owner, None)
        if fresh:
            for host in [host for host, one in watched.claims.items() if one.ended and host != owner]:
                del watched.claims[host]
            for one in watched.claims.values():
                one.buried = False
        watched.owner = owner

    # Whether the evidence is what it says.

    def _check_evidence(self, vm: bytes, watched: Watched, change: Change, before: Change | None) -> None:
        evidence = change.evidence
        if is_elsewhere(change):
            return
        if evidence.offset < 0:
            known = [at for _, at in self._admission.ticks[evidence.partition].get(evidence.tick or -1, ())]
            if known:
                self._check_times(vm, watched, change, before, known, None)
            return
        meaning = self._admission.meanings[evidence.partition].get(evidence.offset)
        if meaning is None:
            if before is not None and before.status in ALIVE and change.status in ENDED:
                self._found(Kind.DIFFERING, "I7", "silence ended a run", vm, watched, change)
            return
        told = (text_of(meaning.host), text_of(meaning.boot), meaning.seq)
        if (evidence.host, evidence.boot, evidence.seq) != told:
            what = f"its evidence is said to be of {evidence.host} seq {evidence.seq}, it is of {told[0]} seq {told[2]}"
            self._found(Kind.DIFFERING, "I1", what, vm, watched, change)
            return
        self._check_times(vm, watched, change, before, [meaning.appended_at], meaning.observed_at)

    def _check_times(
        self,
        vm: bytes,
        watched: Watched,
        change: Change,
        before: Change | None,
        appended: list[int],
        observed: int | None,
    ) -> None:
        floor = 0 if before is None else before.detected_at
        if change.detected_at not in [max(at, floor) for at in appended]:
            self._found(Kind.DIFFERING, "I1 I11", "detected_at is not that of its evidence", vm, watched, change)
        elif observed is not None and change.observed_at != observed // 1000 * 1000:
            self._found(Kind.DIFFERING, "I1 I11", "observed_at is not that of its evidence", vm, watched, change)

    # Findings.

    def _lost(self, vm: bytes, watched: Watched, trigger: Trigger, what: str) -> None:
        watched.lost_sight = True
        now = watched.now
        meaning = self._admission.meanings[trigger[0]].get(trigger[1])
        self._report.add(
            Finding(
                kind=Kind.LOST,
                invariant="I1",
                what=f"no change in vm.changes[{self._partition}] has this evidence: {what}",
                topic="host.reports",
                partition=trigger[0],
                offset=trigger[1],
                vm=text_of(vm),
                host=None if meaning is None else text_of(meaning.host),
                incarnation=None if now is None else now.incarnation,
                version=None if now is None else now.version + 1,
            )
        )

    def _found(self, kind: Kind, invariant: str, what: str, vm: bytes, watched: Watched, change: Change | None) -> None:
        if watched.lost_sight:
            return
        watched.lost_sight = True
        offset = next((offset for offset, one in watched.changes if one is change), None)
        self._report.add(
            Finding(
                kind=kind,
                invariant=invariant,
                what=what,
                topic=VM_CHANGES,
                partition=self._partition,
                offset=offset,
                vm=text_of(vm),
                incarnation=None if change is None else change.incarnation,
                version=None if change is None else change.version,
            )
        )


def _possible(claim: Claim, change: Change) -> bool:
    """May a VM be shown with this status when its owner says what it says?"""
    status, said = change.status, claim.status
    if status in ENDED or said is None:
        # An alive claim below an ended VM: its host booted, or was told lost.
        return status == said or said in ENDED or claim.ended or change.belief[0] != "known" or _host_lost(change)
    if not claim.alive:
        return change.belief[0] != "known"
    return status == said or (status == "up" and said in _MAY_BE_UP) or change.belief[0] != "known"


def _host_lost(change: Change) -> bool:
    end = change.look[5]
    return end is not None and end[1] in ("host_lost", "lost")
