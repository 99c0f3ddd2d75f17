"""What trying a dead letter again means. Pure.

The state stages drop what is older than what they heard since, and a VM's part of a report is no report. So for their
letters the host is asked to say everything again, with force: that heals what the letter lost, however old it is. Other
topics get the original bytes once more. What a stage itself publishes is never written by anybody else.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from infra.letters.letter import Letter
from infra.runtime.errors import ConfigError
from infra.runtime.topics import HOST_INTENTS, HOST_REPORTS, VM_INTENTS, VM_OBSERVATIONS, VM_STATS
from schemas.ids import HostId, uuid_bytes

AGAIN_HEADER: Final = "retry-of"
"""Header of a record produced again: the place of the original."""
_ASKED: Final = frozenset({HOST_REPORTS, VM_OBSERVATIONS})
_PRODUCED: Final = frozenset({VM_STATS, VM_INTENTS, HOST_INTENTS})


class Means(StrEnum):
    """What is done."""

    SNAPSHOT = "its host was asked for a forced snapshot"
    PRODUCED = "its bytes were written to its topic again"


def means_of(letter: Letter, *, is_retried: bool, again: bool) -> Means:
    """How to try this letter again; raises ConfigError when that can not be, and when it was done before."""
    where = f"dead letter {letter.place}"
    if is_retried and not again:
        raise ConfigError("was tried again before", where=where, advice="give --again to do it once more")
    if letter.topic in _ASKED:
        host_of(letter)
        return Means.SNAPSHOT
    if letter.topic not in _PRODUCED:
        raise ConfigError(
            f"is from {letter.topic}, which nobody but its stage may write",
            where=where,
            advice="use `deltavisor republish` for a VM, `deltavisor resync` for a host",
        )
    if letter.is_cut:
        raise ConfigError("holds only the beginning of its original", where=where)
    return Means.PRODUCED


def host_of(letter: Letter) -> HostId:
    """The host that the letter is about; raises ConfigError."""
    try:
        return HostId(uuid_bytes(letter.text("dlq.host")))
    except ValueError as error:
        raise ConfigError(
            "names no host", where=f"dead letter {letter.place}", advice="use `deltavisor resync --all`"
        ) from error
