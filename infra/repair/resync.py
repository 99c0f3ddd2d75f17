"""Ask hosts for snapshots and wait for them: the proof is the last part, in host.reports, that names the request."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

from infra.repair.fleet import KnownHost
from infra.repair.log import Follower, Writer
from infra.runtime.settings import KafkaSettings
from infra.runtime.topics import HOST_REPORTS, RESYNC_REQUESTS, TopicSet
from schemas.codec import RecordError, decode, guard
from schemas.ids import RequestId, key_of, partition_of
from schemas.report import HostReport, SnapshotPart
from schemas.resync import Asker, ResyncRequest


class AwaitedSnapshots:
    """Which of these hosts have answered. Pure."""

    def __init__(self, requests: Iterable[ResyncRequest]) -> None:
        self._open = {key_of(one.host_id): one.request_id for one in requests}
        self.parts: dict[bytes, tuple[int, int]] = {}
        """Of hosts that are answering: the newest part, and of how many."""

    @property
    def left(self) -> int:
        """Hosts that have not answered."""
        return len(self._open)

    @property
    def keys(self) -> set[bytes]:
        """Theirs."""
        return set(self._open)

    def hear(self, key: bytes, value: bytes, schema: bytes | None) -> None:
        """Take a record of host.reports; the search for the id spares decoding nearly all of them."""
        request_id = self._open.get(key)
        if request_id is None or value.find(request_id) < 0:
            return
        try:
            guard(value)
            report = decode(HostReport, value, schema)
        except RecordError:
            return
        body = report.body
        if not isinstance(body, SnapshotPart) or request_id not in body.answers:
            return
        self.parts[key] = body.part, body.parts
        if body.inventory is not None:
            del self._open[key]


def resync(
    kafka: KafkaSettings,
    topics: TopicSet,
    hosts: Iterable[KnownHost],
    *,
    force: bool,
    seconds: float,
    per_second: float,
    progress: Callable[[int], None],
) -> list[KnownHost]:
    """Ask these hosts, so many a second, and wait until all answered or the time since the last request is over.

    Returns those that did not answer. Raises NeighbourUnreachable.
    """
    asked = list(hosts)
    requests = [
        ResyncRequest(
            request_id=RequestId(os.urandom(16)),
            host_id=host.host_id,
            force=force,
            asker=Asker.OPERATOR,
            reason="operator",
        )
        for host in asked
    ]
    awaited = AwaitedSnapshots(requests)
    homes = {partition_of(key, topics.partitions) for key in awaited.keys}
    with Follower(kafka, topics, HOST_REPORTS, homes) as follower:
        writer = Writer(kafka, topics, RESYNC_REQUESTS)
        began = time.monotonic()
        for number, request in enumerate(requests):
            writer.write(key_of(request.host_id), request)
            ahead = (number + 1) / per_second - (time.monotonic() - began)
            if ahead > 0:
                follower.follow(awaited, ahead, progress)
        writer.flush()
        follower.follow(awaited, seconds, progress)
    return [host for host in asked if key_of(host.host_id) in awaited.keys]
