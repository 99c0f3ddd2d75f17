"""Every record that travels, in one place: for decoders by header, golden samples and the generated reference."""

from schemas.codec import Record, RecordError, SchemaVersion, decode
from schemas.host_change import HostChange, HostState
from schemas.intent import Intent, IntentCopy
from schemas.observation import ObservationBatch
from schemas.report import HostReport
from schemas.resync import ResyncRequest
from schemas.tick import Tick
from schemas.vm_change import VmChange
from schemas.vm_state import VmFacet, VmHead

RECORDS: dict[str, type[Record]] = {
    kind.SCHEMA.record: kind
    for kind in (
        HostReport,
        Tick,
        ObservationBatch,
        ResyncRequest,
        Intent,
        IntentCopy,
        VmChange,
        VmHead,
        VmFacet,
        HostChange,
        HostState,
    )
}


def decode_any(data: bytes, header: bytes | str | None) -> Record:
    """Decode by what the header says; raises RecordError for an unknown record."""
    if header is None:
        raise RecordError("the message has no `schema` header")
    version = SchemaVersion.parse(header)
    kind = RECORDS.get(version.record)
    if kind is None:
        raise RecordError(f"record {version.record} is not known; known: {', '.join(sorted(RECORDS))}")
    return decode(kind, data, header)
