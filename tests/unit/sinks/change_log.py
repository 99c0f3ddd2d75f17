"""Seeded change logs for tests of sinks: a few VMs and hosts living through everything a change can say."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import msgspec

from schemas.change import CLEARED, Availability, Cause, Evidence, Exit, FacetChange, change_id
from schemas.facets.console import Console, Display
from schemas.facets.devices import Device, Devices
from schemas.facets.guest import Guest, GuestNic, GuestOs
from schemas.facets.host import HostCapacity, HostSystem
from schemas.facets.identity import Identity
from schemas.facets.jobs import Job, Jobs
from schemas.facets.numa import Numa, NumaCell
from schemas.facets.run import Migration, Run
from schemas.facets.watchdog import Watchdog
from schemas.host_change import HostChange, HostReachabilityState
from schemas.ids import uuid_text
from schemas.status import Believed, Doubt, ExitReason, ExitStatus, PauseReason, Reachability, Status
from schemas.vm_change import VmChange

START_NS = 1_795_300_000_000_000_000
"""A time in November 2026."""

_LIVE = [status for status in Status if status is not Status.REMOVED]


class Life:
    """One VM's changes, one after the other; versions without holes, digests chained."""

    def __init__(self, chance: random.Random, vm_id: str, at_ns: int = START_NS) -> None:
        self._chance = chance
        self.vm_id = vm_id
        self.incarnation = at_ns
        self.version = 0
        self.digest = 0
        self.removed = False
        self.facets: dict[str, msgspec.Struct] = {}

    def next(self, at_ns: int, *, facet: str | None = None, status: Status | None = None) -> VmChange:
        """The next change; after a removal it begins a new incarnation."""
        chance = self._chance
        if self.removed:
            self.incarnation = max(self.incarnation + 1, at_ns)
            self.version, self.digest, self.removed = 0, 0, False
        born = self.version == 0
        status = status or chance.choice(_LIVE)
        changes: dict[str, FacetChange] = {}
        if status is not Status.REMOVED:
            names = ["identity", "run"] if born else [facet or _facet_name(chance)]
            changes = {name: self._facet_change(name, status) for name in names}
        else:
            self.facets.clear()
            self.removed = True
        previous = self.digest
        self.version += 1
        self.digest = chance.getrandbits(64)
        doubts = sorted(chance.sample(list(Doubt), chance.choice((0, 0, 1, 2))))
        return VmChange(
            vm_id=self.vm_id,
            incarnation=self.incarnation,
            version=self.version,
            change_id=change_id(self.vm_id, self.incarnation, self.version),
            observed_at=at_ns - 5_000_000,
            detected_at=at_ns,
            cause=Cause.CREATED if born else chance.choice((Cause.REPORTED, Cause.TIMER)),
            status=status,
            availability=Availability(
                state=Believed.UNKNOWN if doubts else Believed.KNOWN,
                reason=doubts[0] if doubts else None,
                reasons=doubts,
                since=at_ns,
            ),
            host_id=chance.choice((None, uuid_text(bytes(15) + b"\1"), uuid_text(bytes(15) + b"\2"))),
            ownership_epoch=chance.randrange(10),
            run_id=chance.choice((None, _uuid(chance))),
            exit=chance.choice((None, Exit(status=ExitStatus.ERROR, reason=ExitReason.QEMU_DIED, message="gone"))),
            facets=changes,
            managed=chance.choice((None, None, None, {"notes": f"n{self.version}"}, {"ha": self.version})),
            previous_digest=previous,
            state_digest=self.digest,
            intent_id=None,
            evidence=_evidence(chance),
            rules_version=1,
        )

    def _facet_change(self, name: str, status: Status) -> FacetChange:
        before = None if name not in self.facets else {"reason": "x"}
        if name in self.facets and self._chance.random() < 0.1:
            del self.facets[name]
            return FacetChange(before=before, after=CLEARED, changed=[name])
        after = facet_value(self._chance, name, status)
        self.facets[name] = after
        return FacetChange(before=before, after=msgspec.Raw(msgspec.msgpack.encode(after)), changed=["reason"])


def change_log(seed: int, *, vms: int, changes: int, removals: float = 0.03) -> Iterator[VmChange]:
    """Changes of some VMs, interleaved, in the order in which one partition would hold them."""
    chance = random.Random(seed)
    lives = [Life(chance, _uuid(chance)) for _ in range(vms)]
    at_ns = START_NS
    for _ in range(changes):
        at_ns += chance.randrange(1, 2_000_000) * 1000
        life = chance.choice(lives)
        removed = life.version > 0 and not life.removed and chance.random() < removals
        yield life.next(at_ns, status=Status.REMOVED if removed else None)


def host_log(seed: int, *, hosts: int, changes: int) -> Iterator[HostChange]:
    """Changes of some hosts, interleaved."""
    chance = random.Random(seed)
    lives = {_uuid(chance): [0, 0] for _ in range(hosts)}
    at_ns = START_NS
    for _ in range(changes):
        at_ns += 1_000_000
        host_id = chance.choice(list(lives))
        version, digest = lives[host_id]
        lives[host_id] = [version + 1, chance.getrandbits(64)]
        system = HostSystem(hostname=f"h{chance.randrange(100)}", os="linux")
        capacity = HostCapacity(cpus=chance.randrange(256), memory_bytes=chance.getrandbits(40))
        name, facet = chance.choice((("host_system", system), ("host_capacity", capacity)))
        yield HostChange(
            host_id=host_id,
            incarnation=START_NS,
            version=version + 1,
            change_id=change_id(host_id, START_NS, version + 1),
            observed_at=at_ns - 1_000_000,
            detected_at=at_ns,
            cause=Cause.REPORTED if version else Cause.CREATED,
            reachability=HostReachabilityState(state=chance.choice(list(Reachability)), since=at_ns),
            confirmed=chance.random() < 0.5,
            flags=chance.choice(([], ["clock_skewed"], ["agent_flapping", 'odd "word\\'])),
            machine_id=host_id,
            boot_id=_uuid(chance),
            agent_epoch=_uuid(chance),
            facets={name: FacetChange(before=None, after=msgspec.Raw(msgspec.msgpack.encode(facet)), changed=["os"])},
            previous_digest=digest,
            state_digest=lives[host_id][1],
            evidence=_evidence(chance),
            rules_version=1,
        )


def facet_value(chance: random.Random, name: str, status: Status = Status.UP) -> msgspec.Struct:
    """A facet with something in most of its fields."""
    number = chance.randrange(1_000)
    makers: dict[str, Any] = {
        "identity": lambda: Identity(name=f"vm {number} ümläut", tags={"owner": "o\0wner"}, vcpus=4, persistent=True),
        "run": lambda: Run(
            status=status,
            reason="booted",
            since=START_NS + number * 1000,
            process_id=f"p{number}",
            pause_reason=chance.choice((None, PauseReason.IO_ERROR)),
            migration=chance.choice((None, Migration(direction="out", phase="pre_copy"))),
        ),
        "guest": lambda: Guest(
            agent_connected=True,
            fqdn=f"g{number}.example",
            os=GuestOs(name="linux", version="6"),
            users=["a", "b"],
            nics=[GuestNic(name="eth0", mac="52:54:00:00:00:01", ipv4=[f"10.0.0.{number % 250}"])],
            ips_as_of=START_NS,
        ),
        "console": lambda: Console(displays=[Display(type="vnc", address="127.0.0.1", port=5900 + number)]),
        "devices": lambda: Devices(
            devices=[Device(device_class="disk", alias=f"d{n}", target=f"vd{n}", plugged=bool(n)) for n in range(3)]
        ),
        "jobs": lambda: Jobs(jobs=[Job(id=f"j{number}", bandwidth_bytes=number)] if number % 2 else []),
        "numa": lambda: Numa(cells=[NumaCell(id=0, memory_bytes=number, vcpus=[0, 1])]),
        "watchdog": lambda: Watchdog(last_at=START_NS + number * 1000, action="reset"),
    }
    made: msgspec.Struct = makers[name]()
    return made


def _facet_name(chance: random.Random) -> str:
    names = ("run", "run", "run", "run", "guest", "console", "devices", "jobs", "numa", "watchdog", "identity")
    return chance.choice(names)


def _uuid(chance: random.Random) -> str:
    return uuid_text(chance.randbytes(16))


def _evidence(chance: random.Random) -> Evidence:
    return Evidence(
        topic="host.reports",
        log=1,
        partition=chance.randrange(4),
        offset=chance.randrange(1 << 40),
        host=_uuid(chance),
        boot=chance.choice((None, _uuid(chance))),
        seq=chance.choice((None, chance.randrange(1 << 30))),
    )
