"""From the table's log to a core.

A batch counts when its partition row stands behind it. So what is loaded is the state at exactly the `applied` of
that row, and the inputs after it, applied again, give again what a torn batch had already sent.

The partition row also says which topic the table was made from, and its generation, `log`. When host.reports is
another topic now, the core begins at its start, with the next generation and nothing confirmed; the runtime lets that
happen only in the command that adopts topics.
"""

from dataclasses import replace
from typing import NamedTuple

import msgspec

from schemas.codec import NewerMajorError, RecordError, decode
from schemas.host_rows import PARTITION_KEY, AppliedOf, HostRow, PartitionRow, VmRow
from schemas.ids import HostId, VmId
from schemas.rules import RULES_VERSION
from streams.hosts.core import HostsConfig, HostsCore
from streams.hosts.rows import ids_of, marks_of
from streams.hosts.state import Host, VmMarks
from streams.runtime.stage import Kept


class Stored(NamedTuple):
    """A row as read."""

    value: bytes
    schema: bytes | None
    log: int
    """Generation of the batch that wrote it: offsets compare within one."""


Torn = tuple[bytes, bytes | None]
"""Value and schema header of a row whose batch is not known yet."""

_applied = msgspec.msgpack.Decoder(AppliedOf)


class HostsLoader:
    """Takes the rows of one partition in log order; a `streams.runtime.stage.GuardedLoader`."""

    def __init__(self, config: HostsConfig, partition: int) -> None:
        self._config = config
        self._partition = partition
        self._rows: dict[bytes, Stored] = {}
        self._torn: dict[bytes, Torn | None] = {}
        """Rows behind the last partition row; None deletes."""
        self._last: PartitionRow | None = None

    @property
    def kept(self) -> Kept | None:
        """See GuardedLoader."""
        row = self._last
        if row is None:
            return None
        return Kept(foreign=self._is_foreign(row), table_start=row.table_start, rules_version=row.rules_version)

    def add(self, key: bytes, value: bytes | None, schema: bytes | None) -> None:
        """See PartitionLoader. Raises NewerMajorError and RecordError for a partition row it can not read."""
        if key != PARTITION_KEY:
            self._torn[key] = None if value is None else (value, schema)
        elif value is not None:
            self._close_batch(self._read_partition(value, schema))

    def finish(self) -> HostsCore:
        """See PartitionLoader. Raises NewerMajorError for newer rules, RecordError when a row is none of ours."""
        self._require_known_rules()
        self._torn.clear()
        hosts: dict[HostId, Host] = {}
        vms: dict[HostId, dict[VmId, VmMarks]] = {}
        for key, stored in self._rows.items():
            try:
                host_id, vm_id = ids_of(key)
                if vm_id is None:
                    hosts[host_id] = Host(host_id, decode(HostRow, stored.value, stored.schema))
                else:
                    vms.setdefault(host_id, {})[vm_id] = marks_of(decode(VmRow, stored.value, stored.schema))
            except NewerMajorError as newer:
                raise NewerMajorError(f"{self._where(key)}: {newer}; upgrade this worker") from newer
            except ValueError as problem:
                raise RecordError(f"{self._where(key)}: {problem}; the table is damaged") from problem
        self._rows = {}
        for host_id, host in hosts.items():
            host.vms = vms.get(host_id, {})
            host.recompute()
        config = self._config
        if self._last is not None:
            config = replace(config, log=self._last.log + self._is_foreign(self._last))
        return HostsCore(config, self._partition, hosts, self._last)

    def _is_foreign(self, row: PartitionRow) -> bool:
        """True when offsets of the table and of our input can not be compared."""
        config = self._config
        return self._partition in config.another_log or row.topic_id not in ("", config.reports_topic_id)

    def _close_batch(self, row: PartitionRow) -> None:
        """Take the batch before this row; one of a former owner, who had read less, is left out."""
        torn, self._torn = self._torn, {}
        if self._last is not None and (row.log, row.applied) < (self._last.log, self._last.applied):
            return
        self._last = row
        for key, found in torn.items():
            if found is None:
                self._rows.pop(key, None)
            elif _applied_by(found[0]) <= row.applied:
                self._rows[key] = _newer(self._rows.get(key), Stored(*found, row.log))
            # Else it is of a batch that was torn off before this one began, and says more than this one includes.

    def _read_partition(self, value: bytes, schema: bytes | None) -> PartitionRow:
        where = self._where(PARTITION_KEY)
        try:
            row = decode(PartitionRow, value, schema)
        except NewerMajorError as newer:
            raise NewerMajorError(f"{where}: {newer}; upgrade this worker") from newer
        except RecordError as problem:
            raise RecordError(f"{where}: {problem}; the table is damaged") from problem
        return row

    def _require_known_rules(self) -> None:
        """Only the last row counts: those before it may be of newer rules that were rolled back."""
        row = self._last
        if row is not None and row.rules_version > RULES_VERSION and not self._config.newer_rules:
            raise NewerMajorError(
                f"{self._where(PARTITION_KEY)}: written under rules version {row.rules_version}, this worker knows "
                f"{RULES_VERSION}; run the newer version, or `deltavisor stream rollback hosts` to go back"
            )

    def _where(self, key: bytes) -> str:
        return f"{self._config.topics.table}[{self._partition}] {key.decode('ascii', 'replace')}"


def _newer(known: Stored | None, found: Stored) -> Stored:
    """A former owner's late row may stand behind a newer one."""
    if known is None or known.log != found.log:
        return found
    return known if _applied_by(known.value) > _applied_by(found.value) else found


def _applied_by(value: bytes) -> int:
    """How far the writer of a row had read; -1 for a row that can not be read, which is said when it is decoded."""
    try:
        return _applied.decode(value).applied
    except msgspec.DecodeError:
        return -1
