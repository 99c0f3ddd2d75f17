"""Who is there, by the public topics: hosts from host.state, VMs from the keys of vm.state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from infra.agreement.topics import messages
from infra.runtime.errors import ConfigError
from infra.runtime.settings import KafkaSettings
from infra.runtime.topics import HOST_STATE, VM_STATE, TopicSet
from schemas.codec import SCHEMA_HEADER, decode
from schemas.facets import HostFacet
from schemas.facets.host import HostSystem
from schemas.host_change import HostState
from schemas.ids import HostId, uuid_bytes, uuid_text
from schemas.status import Reachability

FEWEST_CHARACTERS = 8
"""Of the beginning of an id."""
_VM_KEY_CHARACTERS = 36


class KnownHost(msgspec.Struct, frozen=True, kw_only=True):
    """A host as host.state shows it."""

    host_id: HostId
    name: str | None
    reachability: Reachability

    @property
    def text(self) -> str:
        """Its id."""
        return uuid_text(self.host_id)

    def __str__(self) -> str:
        return f"{self.name} ({self.text})" if self.name else self.text


def known_hosts(kafka: KafkaSettings, topics: TopicSet) -> list[KnownHost]:
    """Every host that host.state holds, by name and id. Raises NeighbourUnreachable."""
    states: dict[str, HostState] = {}
    for message in messages(kafka, topics, HOST_STATE):
        key, value = (message.key() or b"").decode("ascii", "replace"), message.value()
        if value is None:
            states.pop(key, None)
        elif not key.startswith("#"):
            states[key] = decode(HostState, value, dict(message.headers() or []).get(SCHEMA_HEADER))
    return sorted(map(_known, states.values()), key=lambda host: (host.name or "", host.host_id))


def _known(state: HostState) -> KnownHost:
    system = state.facets.get(HostFacet.SYSTEM.value)
    name = None if system is None else msgspec.msgpack.decode(system, type=HostSystem).hostname
    return KnownHost(host_id=HostId(uuid_bytes(state.host_id)), name=name, reachability=state.reachability.state)


def choose(hosts: Iterable[KnownHost], names: Sequence[str]) -> list[KnownHost]:
    """The hosts meant by these: an id, the beginning of one, or a host name. ConfigError for none or several."""
    chosen: dict[HostId, KnownHost] = {}
    known = list(hosts)
    for name in names:
        found = [host for host in known if name in (host.text, host.name)] or [
            host for host in known if len(name) >= FEWEST_CHARACTERS and host.text.startswith(name.lower())
        ]
        if len(found) != 1:
            told = ", ".join(map(str, found[:5]))
            raise ConfigError(
                f"{name!r} means {len(found)} hosts: {told}" if found else f"no host is known as {name!r}",
                advice="give an id, the beginning of one (8 characters or more), or a host name",
            )
        chosen[found[0].host_id] = found[0]
    return list(chosen.values())


def known_vms(kafka: KafkaSettings, topics: TopicSet, partition: int | None = None) -> list[str]:
    """Ids of every VM with a head in vm.state, of one partition or all. Raises NeighbourUnreachable."""
    found: dict[bytes, None] = {}
    for message in messages(kafka, topics, VM_STATE):
        key = message.key()
        if not isinstance(key, bytes) or len(key) != _VM_KEY_CHARACTERS or key.startswith(b"#"):
            continue
        if partition is not None and message.partition() != partition:
            continue
        if message.value() is None:
            found.pop(key, None)
        else:
            found[key] = None
    return [key.decode("ascii") for key in found]


def vm_ids(texts: Sequence[str]) -> list[str]:
    """These VM ids in canonical form; ConfigError for what is none."""
    ids: Mapping[str, None] = {}
    try:
        ids = {uuid_text(uuid_bytes(text)): None for text in texts}
    except ValueError as problem:
        raise ConfigError(f"not an id of a VM: {problem}", advice="`deltavisor vm list --json` shows ids") from problem
    return list(ids)
