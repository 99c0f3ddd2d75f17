"""What each host says of a VM, as facets: the part of the oracle that needs no clock.

A claim is the fold of one host's statements about one VM (rules A4, A5, D4, D5): facets merged with what the same
process was known to be, by the hash of their bytes and of their normal form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgpack

from tests.verifier.facets import ALIVE, ENDED, ENDS_WITH_RUN, OUTLIVES_CLAIM, VM_FACETS, completed, marks_of_bytes
from tests.verifier.records import Unreadable, hash64, unpack_map
from tests.verifier.reports import Facets

Refused = Callable[[str, bytes], bool]
"""Was this facet (name, bytes) put aside as malformed?"""


class Value:
    """One facet of a claim."""

    __slots__ = ("data", "normal", "raw")

    def __init__(self, raw: int, normal: int | None, data: bytes) -> None:
        self.raw = raw
        """Hash of the bytes last sent."""
        self.normal = normal
        """None: never readable."""
        self.data = data
        """The merged facet, packed; kept where later ones are merged with it."""


_MERGED = frozenset({"identity", "run", "guest"})


class Claim:
    """The last word of one host about one VM."""

    __slots__ = ("boot", "borrowed", "buried", "ended", "offset", "process", "status", "values")

    def __init__(self, boot: bytes) -> None:
        self.boot = boot
        self.values: dict[str, Value] = {}
        self.status: str | None = None
        """The host's word; None before a run facet was readable."""
        self.process: str | None = None
        self.ended = False
        self.borrowed = False
        """The host itself has said nothing: it shows what the source said."""
        self.buried = False
        """The VM was removed since; its host only has to list it again to have it back (A7)."""
        self.offset = -1

    @property
    def alive(self) -> bool:
        """The host says that a process exists."""
        return not self.ended and self.status in ALIVE

    def lend(self) -> Claim:
        """What a host shows that was handed the VM unheard."""
        copy = Claim(self.boot)
        copy.values, copy.status, copy.borrowed = dict(self.values), "migrating_to", True
        return copy

    def keep_when_gone(self) -> None:
        """Only what the VM is outlives the claim of an ended owner."""
        self.values = {name: value for name, value in self.values.items() if name in OUTLIVES_CLAIM}

    def take(self, boot: bytes, facets: Facets, refused: Refused, *, force: bool) -> None:
        """Apply a statement that lists the VM; with `force`, bytes that are known are read all the same."""
        if self.borrowed:
            self.borrowed, self.values = False, {}
        same_boot, run = boot == self.boot, None
        for name in VM_FACETS:
            data = facets.get(name)
            if data is None:
                continue
            raw = hash64(data)
            known = self.values.get(name)
            if known is not None and known.raw == raw and not force:
                continue
            try:
                if refused(name, data):
                    raise Unreadable("it is in dead.letters")
                mergeable = known is not None and same_boot and self._same_process(run)
                merged = _merged(name, known.data, data) if known is not None and mergeable else data
                normal = marks_of_bytes(name, merged).normal
            except Unreadable:
                self.values[name] = Value(raw, known.normal if known else None, known.data if known else b"")
                continue
            if known is not None and known.normal == normal:
                known.raw = raw
                continue
            self.values[name] = Value(raw, normal, merged if name in _MERGED else b"")
            if name == "run":
                run = unpack_map(merged)
        self.boot, self.ended = boot, False
        if run is not None:
            self._take_run(run)

    def _same_process(self, run: Mapping[str, Any] | None) -> bool:
        return run is None or run.get("process_id") is None or run["process_id"] == self.process

    def _take_run(self, run: Mapping[str, Any]) -> None:
        status = run.get("status")
        self.status = "down" if status == "removed" else status
        self.process = run.get("process_id") or self.process

    def shown(self, status: str) -> dict[str, int]:
        """Facets that a VM of this derived status shows of this claim: name -> normal mark."""
        if status == "removed":
            return {}
        hidden = ENDS_WITH_RUN if status in ENDED else frozenset()
        return {
            name: value.normal for name, value in self.values.items() if value.normal is not None and name not in hidden
        }


def _merged(name: str, before: bytes, now: bytes) -> bytes:
    """The facet completed from what was known, packed; raises Unreadable."""
    if name not in _MERGED or not before:
        return now
    said = unpack_map(now)
    merged = completed(name, unpack_map(before), said)
    return now if merged is said else bytes(msgpack.packb(merged))
