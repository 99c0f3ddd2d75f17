"""Facet `jobs`: block jobs; their progress is a statistic (rule D3)."""

import msgspec

from schemas.ownership import Reported
from schemas.text import Name


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One block job."""

    id: Name
    disk: Name | None = None
    type: Name | None = None
    state: Name | None = None
    bandwidth_bytes: int | None = None


class Jobs(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Open block jobs, sorted by id; a missing facet is unknown, an empty list is none."""

    jobs: Reported[list[Job]] = []
