"""ResyncRequest: a stage or an operator asks an agent for a snapshot (`resync.requests`, key host_id)."""

from enum import StrEnum
from typing import ClassVar

from schemas.codec import Record, SchemaVersion
from schemas.ids import HostId, RequestId


class Asker(StrEnum):
    """Who asks."""

    HOSTS = "hosts"
    VMS = "vms"
    OPERATOR = "operator"


class ResyncRequest(Record, frozen=True, kw_only=True):
    """The agent merges open requests into one snapshot, which names the requests it answers."""

    SCHEMA: ClassVar[SchemaVersion] = SchemaVersion(record="ResyncRequest", major=1, minor=0)

    request_id: RequestId
    host_id: HostId
    force: bool
    asker: Asker
    reason: str
