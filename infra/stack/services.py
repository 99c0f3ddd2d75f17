"""The servers a stack consists of, by name."""

from __future__ import annotations

from enum import StrEnum


class ServiceName(StrEnum):
    """A server of the stack. The value is its directory, its log file and its name on the command line."""

    KAFKA = "kafka"
    POSTGRES = "postgres"
    VICTORIAMETRICS = "victoriametrics"
    PROMETHEUS = "prometheus"


MANDATORY = frozenset({ServiceName.KAFKA, ServiceName.POSTGRES})
"""Without these no state flows. The other two hold statistics only: a stack without them is still useful."""
