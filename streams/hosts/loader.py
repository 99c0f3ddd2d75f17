"""From the table's log to a core.

A batch counts when its partition row stands behind it. So what is loaded is the state at exactly the `applied` of
that row, and the inputs after it, applied again, give again what a torn batch had already sent.
"""

import msgspec

from schemas.codec import NewerMajorError, RecordError, decode
from schemas.host_rows import PARTITION_KEY, AppliedOf, HostRow, PartitionRow, VmRow
from schemas.ids import HostId, VmId
from streams.hosts.core import HostsConfig, HostsCore
from streams.hosts.policy import RULES_VERSION
from streams.hosts.rows import ids_of, marks_of
from streams.hosts.state import Host, VmMarks

Stored = tuple[bytes, bytes | None]
"""Value and schema header of a row."""

_applied = msgspec.msgpack.Decoder(AppliedOf)


class HostsLoader:
    """Takes the rows of one partition in log order; a `streams.runtime.stage.PartitionLoader`."""

    def __init__(self, config: HostsConfig, partition: int) -> None:
        self._config = config
        self._partition = partition
        self._rows: dict[bytes, Stored] = {}
        self._torn: dict[bytes, Stored | None] = {}
        """Rows behind the last partition row; None deletes."""
        self._last: PartitionRow | None = None

    def add(self, key: bytes, value: bytes | None, schema: bytes | None) -> None:
        """See PartitionLoader. Raises NewerMajorError and RecordError for a partition row it can not read."""
        if key != PARTITION_KEY:
            self._torn[key] = None if value is None else (value, schema)
        elif value is not None:
            self._close_batch(self._read_partition(value, schema))

    def finish(self) -> HostsCore:
        """See PartitionLoader. Raises RecordError when a row is none of ours."""
        self._torn.clear()
        hosts: dict[HostId, Host] = {}
        vms: dict[HostId, dict[VmId, VmMarks]] = {}
        for key, (value, schema) in self._rows.items():
            try:
                host_id, vm_id = ids_of(key)
                if vm_id is None:
                    hosts[host_id] = Host(host_id, decode(HostRow, value, schema))
                else:
                    vms.setdefault(host_id, {})[vm_id] = marks_of(decode(VmRow, value, schema))
            except NewerMajorError as newer:
                raise NewerMajorError(f"{self._where(key)}: {newer}; upgrade this worker") from newer
            except ValueError as problem:
                raise RecordError(f"{self._where(key)}: {problem}; the table is damaged") from problem
        self._rows = {}
        for host_id, host in hosts.items():
            host.vms = vms.get(host_id, {})
            host.recompute()
        return HostsCore(self._config, self._partition, hosts, self._last)

    def _close_batch(self, row: PartitionRow) -> None:
        """Take the batch before this row; one of a former owner, who had read less, is left out."""
        torn, self._torn = self._torn, {}
        if self._last is not None and (row.log, row.applied) < (self._last.log, self._last.applied):
            return
        self._last = row
        for key, stored in torn.items():
            if stored is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = self._newer(self._rows.get(key), stored)

    def _newer(self, known: Stored | None, found: Stored) -> Stored:
        """A former owner's late row may stand behind a newer one."""
        if known is None or self._is_of_another_log():
            return found
        try:
            return known if _applied.decode(known[0]).applied > _applied.decode(found[0]).applied else found
        except msgspec.DecodeError:
            return found

    def _is_of_another_log(self) -> bool:
        """True when offsets of the table and of our input can not be compared."""
        return self._last is not None and self._last.log != self._config.log

    def _read_partition(self, value: bytes, schema: bytes | None) -> PartitionRow:
        where = self._where(PARTITION_KEY)
        try:
            row = decode(PartitionRow, value, schema)
        except NewerMajorError as newer:
            raise NewerMajorError(f"{where}: {newer}; upgrade this worker") from newer
        except RecordError as problem:
            raise RecordError(f"{where}: {problem}; the table is damaged") from problem
        if row.rules_version > RULES_VERSION:
            raise NewerMajorError(
                f"{where}: written under rules version {row.rules_version}, this worker knows {RULES_VERSION}; "
                "run the newer version again"
            )
        if row.log > self._config.log:
            raise NewerMajorError(
                f"{where}: of log {row.log} of {self._config.topics.reports}, this worker was told {self._config.log}; "
                "raise its `log`"
            )
        return row

    def _where(self, key: bytes) -> str:
        return f"{self._config.topics.table}[{self._partition}] {key.decode('ascii', 'replace')}"
