"""How the services of a stack are, for people and programs."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from infra.runtime.errors import DeltavisorError
from infra.stack import external
from infra.stack.processes import is_alive, usage
from infra.stack.server import NotReady, Server, Site
from infra.stack.services import ServiceName

_PROBE_SECONDS = 2.0


class ServiceState(StrEnum):
    """What is known of a service."""

    RUNNING = "running"
    """Started by the stack, and answering."""
    UNRESPONSIVE = "unresponsive"
    """Its process lives, or it is the user's own, and it does not answer."""
    CRASHED = "crashed"
    """Started by the stack, not stopped, and gone. `up` starts it again."""
    STOPPED = "stopped"
    EXTERNAL = "external"
    """The user's own, and answering."""


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One service. What is unknown, or of a server that is not ours, is None."""

    service: ServiceName
    state: ServiceState
    pid: int | None = None
    port: int | None = None
    cpu_seconds: float | None = None
    """Since its start, of all its processes."""
    rss_bytes: int | None = None


def status_of(server: Server, site: Site) -> ServiceStatus:
    """Return how one service is, with one request to it where it runs."""
    if site.settings.address_of(server.name) is not None:
        return ServiceStatus(service=server.name, state=_external_state(server.name, site))
    identity = site.state.processes.get(server.name)
    port = site.state.ports.get(server.name)
    if identity is None:
        return ServiceStatus(service=server.name, state=ServiceState.STOPPED, port=port)
    taken = usage(identity)
    if taken is None:
        return ServiceStatus(service=server.name, state=ServiceState.CRASHED, pid=identity.pid, port=port)
    state = ServiceState.RUNNING
    try:
        server.probe({name: site.state.ports[name] for name in server.listeners}, _PROBE_SECONDS)
    except NotReady:
        state = ServiceState.UNRESPONSIVE if is_alive(identity) else ServiceState.CRASHED
    return ServiceStatus(
        service=server.name,
        state=state,
        pid=identity.pid,
        port=port,
        cpu_seconds=taken.cpu_seconds,
        rss_bytes=taken.rss_bytes,
    )


def _external_state(service: ServiceName, site: Site) -> ServiceState:
    try:
        external.check(service, site.settings)
    except DeltavisorError:
        return ServiceState.UNRESPONSIVE
    return ServiceState.EXTERNAL
