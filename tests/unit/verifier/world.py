"""A tiny line in memory, written by hand: what agents said, what became of it, and ways to damage it.

It is as simple as a line can be (every owner's word becomes a change at once) and shares nothing with the verifier
but the layout of the records, which both take from docs/schemas.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgpack
import xxhash

from tests.verifier.logs import TOPICS, Ends, Message, Span
from tests.verifier.records import partition_of

PARTITIONS = 2
START_NS = 1_795_300_000_000_000_000
STEP_NS = 100_000_000
FACETS = ("identity", "run", "guest", "console", "devices", "jobs", "numa", "watchdog")
Facet = dict[str, Any]


def raw_id(name: str) -> bytes:
    """16 bytes for a name."""
    return hashlib.md5(name.encode(), usedforsecurity=False).digest()


def text_id(name: str) -> str:
    """UUID text for a name."""
    digits = raw_id(name).hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def digest_of(*parts: object) -> int:
    """Some 64 bits; readers compare digests, they never compute them."""
    return xxhash.xxh64_intdigest(repr(parts).encode())


def home_of(name: str) -> int:
    """Partition of the thing with this name."""
    return partition_of(text_id(name).encode(), PARTITIONS)


class MemoryLogs:
    """Topics as lists."""

    def __init__(self) -> None:
        self.topics: dict[str, list[list[Message]]] = {
            topic: [[] for _ in range(PARTITIONS)] for topic in TOPICS
        }  # fmt: skip

    def append(
        self, topic: str, partition: int, key: str | None, value: Any, schema: str = "", at: int = START_NS, **more: str
    ) -> int:
        """Write a record (packed unless it is bytes or None); returns its offset."""
        log = self.topics[topic][partition]
        data = value if value is None or isinstance(value, bytes) else msgpack.packb(value)
        headers = {"schema": schema.encode(), **{name.replace("_", "."): text.encode() for name, text in more.items()}}
        log.append(Message(len(log), at, None if key is None else key.encode(), data, headers))
        return len(log) - 1

    def rewrite(self, topic: str, partition: int, messages: list[Message]) -> None:
        """Replace a partition, offsets anew."""
        self.topics[topic][partition] = [
            message._replace(offset=offset) for offset, message in enumerate(messages)
        ]  # fmt: skip

    def ends(self) -> Ends:
        return {
            topic: {number: Span(0, len(log)) for number, log in enumerate(logs)} for topic, logs in self.topics.items()
        }

    def read(self, topic: str, partition: int, span: Span) -> Iterator[Message]:
        return iter(self.topics[topic][partition][span.low : span.high])


class MemoryTables:
    """Tables as lists of rows."""

    def __init__(self) -> None:
        self.tables: dict[str, list[dict[str, Any]]] = {}

    def rows(self, table: str) -> Iterator[dict[str, Any]]:
        return iter(self.tables.get(table, []))


class Life:
    """One VM as the line knows it."""

    def __init__(self, name: str, incarnation: int) -> None:
        self.name, self.incarnation, self.version, self.digest = name, incarnation, 0, 0
        self.status, self.host, self.epoch, self.reasons = "", "", 0, list[str]()
        self.since = self.detected_at = self.observed_at = 0
        self.cause = ""
        self.shown: dict[str, Facet] = {}
        self.changed_at: dict[str, int] = {}
        self.claims: dict[str, dict[str, Facet]] = {}


class World:
    """The line; every `say` is one report that passes through all of it."""

    def __init__(self) -> None:
        self.logs, self.database = MemoryLogs(), MemoryTables()
        self.vms: dict[str, Life] = {}
        self.hosts: dict[str, dict[str, Any]] = {}
        self.lists: dict[str, set[str]] = {}
        self.history: list[dict[str, Any]] = []
        self.host_history: list[dict[str, Any]] = []
        self._at = START_NS
        self._seq: dict[str, int] = {}

    # The log.

    def snapshot(self, host: str, vms: Mapping[str, Mapping[str, Facet]]) -> int:
        """The first report of a host's agent."""
        self.lists[host] = set(vms)
        body = {
            "kind": "snapshot", "snapshot_id": raw_id(f"snapshot of {host}"), "part": 1, "parts": 1,
            "vms": [_said(vm, facets) for vm, facets in vms.items()],
            "inventory": [raw_id(vm) for vm in vms],
        }  # fmt: skip
        offset = self._report(host, body)
        self._change_host(host, offset)
        self._observe(host, offset, vms, inventory=[raw_id(vm) for vm in vms], events=[3, 6])
        for vm, facets in vms.items():
            self._take(host, offset, vm, facets)
        return offset

    def say(self, host: str, vm: str, **facets: Facet) -> int:
        """A report of changes of one VM."""
        self.lists[host].add(vm)
        offset = self._report(host, {"kind": "changes", "vms": [_said(vm, facets)]})
        self._observe(host, offset, {vm: facets})
        self._take(host, offset, vm, facets)
        return offset

    def heartbeat(self, host: str) -> int:
        return self._report(host, {"kind": "changes"})

    def undefine(self, host: str, vm: str) -> int:
        """A VM that does not run leaves the list for good."""
        self.lists[host].discard(vm)
        offset = self._report(host, {"kind": "changes", "gone": [{"vm_id": raw_id(vm), "reason": "undefined"}]})
        self._observe(host, offset, {}, gone={vm: "undefined"})
        life = self.vms[vm]
        for facet in life.claims[host]:
            self.logs.append("vm.state", home_of(vm), f"{text_id(vm)}/{text_id(host)}/{facet}", None)
        life.claims[host], life.status, life.host = {}, "removed", ""
        self._publish(host, offset, life, "removed")
        return offset

    def migrate(self, source: str, destination: str, vm: str, run: Facet) -> int:
        """The destination runs it while its source migrates it: a hand-over; the source's claim ends."""
        life = self.vms[vm]
        facets = {**life.claims[source], "run": run}
        self.lists[destination].add(vm)
        offset = self._report(destination, {"kind": "changes", "vms": [_said(vm, facets)]})
        self._observe(destination, offset, {vm: facets})
        life.claims[destination] = facets
        life.host, life.status, life.epoch = destination, run["status"], life.epoch + 1
        self._write_rows(life, facets)
        self._publish(destination, offset, life, "handed_over")
        self.lists[source].discard(vm)
        gone = self._report(source, {"kind": "changes", "gone": [{"vm_id": raw_id(vm), "reason": "migrated"}]})
        self._observe(source, gone, {}, gone={vm: "migrated"})
        del life.claims[source]
        self._write_head(life)
        for facet in facets:
            self.logs.append("vm.state", home_of(vm), f"{text_id(vm)}/{text_id(source)}/{facet}", None)
        return offset

    def fall_silent(self, *hosts: str) -> None:
        """Ticks pass, the last of them makes hosts of one partition silent, and their VMs unknown."""
        partition = home_of(hosts[0])
        for _ in range(25):
            offset = self.tick(partition)
        for host in hosts:
            assert home_of(host) == partition
            self._silence(host, partition, offset)

    def _silence(self, host: str, partition: int, offset: int) -> None:
        value = {"reachability": {"state": "silent", "since": self._at}, "confirmed": False}
        self._change_host(host, offset, seq=self.ticks(partition), cause="timer", **value)
        for vm_partition in range(PARTITIONS):
            self._observe_in(vm_partition, host, offset, [], None, [1], seq=self.ticks(partition))
        for life in self.vms.values():
            if life.host == host:
                life.reasons, life.since = ["host_silent"], self._at
                self._publish(host, offset, life, "host", seq=self.ticks(partition), observed_at=self._at)

    def tick(self, partition: int) -> int:
        """One second passes in a partition."""
        self._at += 1_000_000_000
        value = {"n": self.ticks(partition) + 1, "owner": raw_id("owner"), "rules_version": 1, "mac": b"0" * 32}
        return self._append_report(partition, "#tick", value, "Tick/1.0")

    def ticks(self, partition: int) -> int:
        return sum(message.key == b"#tick" for message in self.logs.topics["host.reports"][partition])

    def poison(self, host: str, data: bytes) -> int:
        """Bytes that nobody can use, put aside by the line."""
        partition = home_of(host)
        offset = self._append_report(partition, text_id(host), data, "HostReport/1.0")
        self.logs.append(
            "dead.letters", partition, text_id(host), data, dlq_topic="host.reports", dlq_partition=str(partition),
            dlq_offset=str(offset), dlq_stage="hosts", dlq_reason="malformed", dlq_error="?",
        )  # fmt: skip
        return offset

    def _append_report(self, partition: int, key: str, value: Any, schema: str) -> int:
        self._at += STEP_NS
        return self.logs.append("host.reports", partition, key, value, schema, self._at)

    def _report(self, host: str, body: dict[str, Any]) -> int:
        seq = self._seq[host] = self._seq.get(host, 0) + 1
        value = {
            "host_id": raw_id(host), "machine_id": raw_id(f"machine of {host}"), "boot_id": raw_id(f"boot of {host}"),
            "agent_epoch": raw_id(f"epoch of {host}"), "seq": seq, "observed_at": self._at, "observed_monotonic_ns": 1,
            "sent_at": self._at, "sent_monotonic_ns": 1, "vm_count": len(self.lists.get(host, ())), "digest": 0,
            "body": body,
        }  # fmt: skip
        return self._append_report(home_of(host), text_id(host), value, "HostReport/1.0")

    # The hosts stage.

    def _observe(
        self,
        host: str,
        offset: int,
        vms: Mapping[str, Mapping[str, Facet]],
        gone: Mapping[str, str] | None = None,
        inventory: list[bytes] | None = None,
        events: list[int] | None = None,
    ) -> None:
        said: list[list[list[Any]]] = [[] for _ in range(PARTITIONS)]
        for vm, facets in vms.items():
            said[home_of(vm)].append([raw_id(vm), {name: pack(value) for name, value in facets.items()}, None])
        for vm, reason in (gone or {}).items():
            said[home_of(vm)].append([raw_id(vm), {}, reason])
        for partition, statements in enumerate(said):
            share = [vm for vm in inventory if _home_of_raw(vm) == partition] if inventory is not None else None
            if statements or share is not None or events:
                self._observe_in(partition, host, offset, statements, share, events or [])

    def _observe_in(
        self,
        partition: int,
        host: str,
        offset: int,
        statements: list[list[Any]],
        inventory: list[bytes] | None,
        events: list[int],
        seq: int | None = None,
    ) -> None:
        report = [
            offset, self._at, self._at, raw_id(host), raw_id(f"boot of {host}"), raw_id(f"epoch of {host}"),
            seq or self._seq[host], statements, inventory, [[event, False] for event in events], False,
        ]  # fmt: skip
        batch = [home_of(host), 1, 0, 0, 1, [report]]
        self.logs.append("vm.observations", partition, None, batch, "ObservationBatch/1.0")

    def _change_host(
        self, host: str, offset: int, *, seq: int | None = None, cause: str = "created", **more: Any
    ) -> None:
        before = self.hosts.get(host, {})
        version = before.get("version", 0) + 1
        incarnation = before.get("incarnation", self._at)
        observed_at = self._at if seq else self._at - STEP_NS
        value: dict[str, Any] = {
            "host_id": text_id(host), "incarnation": incarnation, "version": version,
            "change_id": f"{text_id(host)}:{incarnation}:{version}", "observed_at": observed_at,
            "detected_at": self._at, "cause": cause, "reachability": {"state": "up", "since": self._at},
            "confirmed": True, "flags": [], "machine_id": text_id(f"machine of {host}"),
            "boot_id": text_id(f"boot of {host}"), "agent_epoch": text_id(f"epoch of {host}"), "facets": {},
            "previous_digest": before.get("state_digest", 0), "state_digest": digest_of(host, version),
            "evidence": {
                "topic": "host.reports", "log": 1, "partition": home_of(host), "offset": offset, "host": text_id(host),
                "boot": text_id(f"boot of {host}"), "seq": seq or self._seq[host],
            },
            "rules_version": 1,
        }  # fmt: skip
        value |= more
        self.hosts[host] = value
        self.host_history.append(value)
        self.logs.append("host.changes", home_of(host), text_id(host), value, "HostChange/1.0")
        self.logs.append("host.state", home_of(host), text_id(host), {**value, "vm_count": 0, "last_report_at": 0})

    # The vms stage.

    def _take(self, host: str, offset: int, vm: str, facets: Mapping[str, Facet]) -> None:
        life = self.vms.get(vm)
        born = life is None or life.status == "removed"
        if life is None or born:
            epoch = life.epoch if life is not None else 0
            life = self.vms[vm] = Life(vm, self._at)
            life.epoch, life.host, life.since = epoch + 1, host, self._at
        claim = life.claims.setdefault(host, {})
        claim.update(facets)
        if life.host == host:
            life.status = claim["run"]["status"]
            self._publish(host, offset, life, "created" if born else "reported")

    def _publish(
        self, host: str, offset: int, life: Life, cause: str, *, seq: int | None = None, observed_at: int | None = None
    ) -> None:
        shown = dict(life.claims.get(life.host, {}))
        if life.status == "down":
            shown.pop("guest", None)
        facets = {}
        for name in sorted(life.shown.keys() | shown.keys()):
            old, new = life.shown.get(name), shown.get(name)
            if old != new:
                before = None if old is None else {k: v for k, v in old.items() if new is None or new.get(k) != v}
                facets[name] = {"before": before, "after": new, "changed": sorted(new or old or {})}
                life.changed_at[name] = self._at
        life.shown, life.version = shown, life.version + 1
        life.detected_at, life.cause = self._at, cause
        life.observed_at = self._at - STEP_NS if observed_at is None else observed_at
        previous, life.digest = life.digest, digest_of(life.name, life.incarnation, life.version)
        value = {
            "vm_id": text_id(life.name), "incarnation": life.incarnation, "version": life.version,
            "change_id": f"{text_id(life.name)}:{life.incarnation}:{life.version}", "observed_at": life.observed_at,
            "detected_at": life.detected_at, "cause": cause, "status": life.status, "availability": _available(life),
            "host_id": text_id(life.host) if life.host else None, "ownership_epoch": life.epoch,
            "run_id": text_id(f"run of {life.name}"), "exit": None, "facets": facets, "managed": None,
            "previous_digest": previous, "state_digest": life.digest, "intent_id": None,
            "evidence": {
                "topic": "host.reports", "log": 1, "partition": home_of(host), "offset": offset, "host": text_id(host),
                "boot": text_id(f"boot of {host}"), "seq": seq or self._seq[host],
            },
            "rules_version": 1,
        }  # fmt: skip
        self.history.append(value)
        self.logs.append("vm.changes", home_of(life.name), text_id(life.name), value, "VmChange/1.0", self._at)
        self._write_rows(life, facets)
        self._write_head(life)

    def _write_rows(self, life: Life, facets: Mapping[str, Any]) -> None:
        for name in facets:
            if name in life.claims.get(life.host, {}):
                value = life.claims[life.host][name]
                row = {
                    "incarnation": life.incarnation, "version": life.version, "applied": len(self.history),
                    "fingerprint": fingerprint(value), "value": pack(value),
                }  # fmt: skip
                key = f"{text_id(life.name)}/{text_id(life.host)}/{name}"
                self.logs.append("vm.state", home_of(life.name), key, row, "VmFacet/1.0")

    def _write_head(self, life: Life) -> None:
        head = {
            "vm_id": text_id(life.name), "incarnation": life.incarnation, "version": life.version,
            "status": life.status, "availability": _available(life), "ownership_epoch": life.epoch,
            "run_id": text_id(f"run of {life.name}"), "observed_at": life.observed_at,
            "detected_at": life.detected_at, "digest": life.digest, "applied": len(self.history),
            "claims": [
                {"host_id": text_id(host), "facets": {name: [0, fingerprint(one), 0] for name, one in claim.items()}}
                for host, claim in life.claims.items()
            ],
            "facets": {name: fingerprint(one) for name, one in life.shown.items()},
        }  # fmt: skip
        if life.host:
            head["host_id"] = text_id(life.host)
        self.logs.append("vm.state", home_of(life.name), text_id(life.name), head, "VmHead/1.0")


def pack(value: Facet) -> bytes:
    """Canonical bytes of a facet."""
    data: bytes = msgpack.packb(value)
    return data


def fingerprint(value: Facet) -> bytes:
    """Fingerprint of a facet without noted fields."""
    digest: bytes = xxhash.xxh3_128_digest(pack(value))
    return digest


def _said(vm: str, facets: Mapping[str, Facet]) -> dict[str, Any]:
    return {"vm_id": raw_id(vm), "facets": {name: pack(value) for name, value in facets.items()}}


def _home_of_raw(vm: bytes) -> int:
    digits = vm.hex()
    text = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
    return partition_of(text.encode(), PARTITIONS)


def _available(life: Life) -> dict[str, Any]:
    if not life.reasons:
        return {"state": "known", "since": life.since}
    return {"state": "unknown", "reason": life.reasons[0], "reasons": life.reasons, "since": life.since}
