"""The checker itself: it must find every kind of disagreement, and none where there is none."""

from dataclasses import replace

import msgspec
import pytest

from infra.agreement.compare import CurrentRow, HistoryRow, Truth, compare_tables, compare_truth, shorten
from infra.agreement.fold import Fold
from schemas.change import Availability, Cause, Evidence, FacetChange
from schemas.facets.normal import fingerprint
from schemas.facets.run import Run
from schemas.status import Believed, Status
from schemas.vm_change import VmChange

VM = "00010203-0405-0607-0809-0a0b0c0d0e0f"
HOST = "10111213-1415-1617-1819-1a1b1c1d1e1f"


def change(version: int, *, incarnation: int = 5, previous: int | None = None, status: Status = Status.UP) -> VmChange:
    digest = incarnation * 1000 + version
    return VmChange(
        vm_id=VM,
        incarnation=incarnation,
        version=version,
        change_id=f"{VM}:{incarnation}:{version}",
        observed_at=1,
        detected_at=1,
        cause=Cause.REPORTED,
        status=status,
        availability=Availability(state=Believed.KNOWN),
        host_id=HOST,
        ownership_epoch=1,
        run_id=None,
        exit=None,
        facets={},
        previous_digest=(0 if version == 1 else digest - 1) if previous is None else previous,
        state_digest=digest,
        evidence=Evidence(topic="host.reports", log=0, partition=0, offset=1, host=HOST, boot=None, seq=1),
        rules_version=1,
    )


RUN = Run(status=Status.UP)


def true(**other: object) -> dict[str, Truth]:
    facts: dict[str, object] = {"status": "up", "availability": "known", "host_id": HOST, "exit": None, "facets": {}}
    return {VM: Truth(**{**facts, **other})}  # type: ignore[arg-type]


def folded(*changes: VmChange) -> Fold:
    fold = Fold()
    for one in changes:
        fold.add(one)
    return fold


def rows_of(fold: Fold) -> tuple[dict[str, CurrentRow], list[HistoryRow]]:
    current = {
        vm_id: CurrentRow(
            incarnation=vm.incarnation,
            version=vm.version,
            digest=vm.digest,
            status=vm.status,
            availability=vm.availability,
            host_id=vm.host_id,
        )
        for vm_id, vm in fold.vms.items()
    }
    history = []
    for identity, digest in fold.distinct.items():
        vm_id, incarnation, version = identity.rsplit(":", 2)
        history.append(HistoryRow(vm_id=vm_id, incarnation=int(incarnation), version=int(version), digest=digest))
    return current, history


def test_a_chain_of_changes_and_its_repeat_are_fine() -> None:
    fold = folded(change(1), change(2), change(2), change(3), change(1, incarnation=9))
    assert fold.problems == []
    assert (fold.records, fold.repeats, len(fold.distinct)) == (5, 1, 4)
    assert compare_tables(fold, *rows_of(fold)) == []


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ([change(1), change(3)], "missing"),
        ([change(2)], "missing"),
        ([change(1), change(2, previous=7)], "previous digest"),
        ([change(1, previous=7)], "previous digest"),
        ([change(1), msgspec.structs.replace(change(1), state_digest=8)], "different content"),
        ([change(1, incarnation=9), change(1, incarnation=5)], "out of order"),
        ([msgspec.structs.replace(change(1), change_id="x")], "is not the id"),
    ],
)
def test_every_broken_chain_is_found(changes: list[VmChange], word: str) -> None:
    problems = folded(*changes).problems
    assert len(problems) == 1
    assert word in problems[0]


def test_every_difference_of_a_row_is_found() -> None:
    fold = folded(change(1), change(2))
    current, history = rows_of(fold)
    for name, wrong in {
        "version": 1,
        "digest": 1,
        "status": "down",
        "availability": "unknown",
        "host_id": None,
    }.items():
        assert compare_tables(fold, {VM: replace(current[VM], **{name: wrong})}, history) != []  # type: ignore[arg-type]
    assert compare_tables(fold, {}, history) != []
    assert compare_tables(fold, {**current, HOST: current[VM]}, history) != []
    assert compare_tables(fold, current, history[:1]) != []
    assert compare_tables(fold, current, [history[0], replace(history[1], digest=7)]) != []
    assert compare_tables(fold, current, [*history, history[0]]) != []


def test_the_truth_is_compared_both_ways() -> None:
    fold = folded(change(1))
    assert compare_truth(fold, true(), {HOST}) == []
    assert compare_truth(fold, {}, {HOST}) != []
    assert compare_truth(fold, {}, {VM}) == []
    assert compare_truth(folded(), true(), {HOST}) != []


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": "paused"},
        {"availability": "unknown"},
        {"host_id": VM},
        {"exit": ("normal", "guest_shutdown")},
        {"facets": {"run": "00" * 16}},
        {"facets": {"guest": fingerprint(RUN).hex()}},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_every_untrue_statement_is_found(wrong: dict[str, object]) -> None:
    published = FacetChange(before=None, after=msgspec.Raw(msgspec.msgpack.encode(RUN)), changed=["status"])
    fold = folded(msgspec.structs.replace(change(1), facets={"run": published}))
    assert compare_truth(fold, true(facets={"run": fingerprint(RUN).hex()}), {HOST}) == []
    assert len(compare_truth(fold, true(**wrong), {HOST})) == 1


def test_an_older_version_published_again_with_other_content_is_found() -> None:
    fold = folded(change(1), change(2), msgspec.structs.replace(change(1), state_digest=8))
    assert len(fold.problems) == 1
    assert "different content" in fold.problems[0]


def test_a_long_list_is_cut_with_its_count() -> None:
    assert shorten([str(number) for number in range(25)])[-1] == "and 5 more"
    assert shorten(["a"]) == ["a"]
