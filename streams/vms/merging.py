"""Unknown never overwrites known: how a new facet of the same process takes over what it does not say (A4, D4).

An agent that restarted knows less than before; its `None` means unknown. Values kept from before are marked `stale`
where the facet can say so.
"""

import msgspec

from schemas.facets.guest import Guest
from schemas.facets.identity import Identity
from schemas.facets.run import Run
from schemas.status import ALIVE


def merge(before: msgspec.Struct, now: msgspec.Struct) -> msgspec.Struct:
    """The new facet, completed from the one before of the same host and process; `now` itself when it is complete."""
    if isinstance(now, Run) and isinstance(before, Run):
        return _run(before, now)
    if isinstance(now, Guest) and isinstance(before, Guest):
        return _guest(before, now)
    if isinstance(now, Identity):
        return _keep_known(before, now, now.__struct_fields__)
    return now


def _keep_known(before: msgspec.Struct, now: msgspec.Struct, names: tuple[str, ...]) -> msgspec.Struct:
    kept = {
        name: known for name in names if getattr(now, name) is None and (known := getattr(before, name)) is not None
    }
    return msgspec.structs.replace(now, **kept) if kept else now


def _run(before: Run, now: Run) -> msgspec.Struct:
    if now.status not in ALIVE or before.status not in ALIVE:
        return now
    return _keep_known(before, now, ("process_id", "started_at"))


_GUEST_ANSWERS = ("fqdn", "os", "timezone", "session", "users", "nics", "ips_as_of")


def _guest(before: Guest, now: Guest) -> msgspec.Struct:
    """The last answer of the guest stays, stale, until it answers again; an answer stands as it is."""
    if now.agent_connected:
        return now
    kept = {name: known for name in _GUEST_ANSWERS if not getattr(now, name) and (known := getattr(before, name))}
    return msgspec.structs.replace(now, **kept, stale=True) if kept else now
