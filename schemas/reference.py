"""The reference for readers in other languages: JSON Schema per record, an AsyncAPI page, field owners.

`python -m schemas.reference docs/schemas` writes the files; a test fails when they are not fresh. Byte strings (ids,
facet bytes, fingerprints) stand as `format: binary` strings: on the wire they are MessagePack `bin`.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from schemas.catalogue import RECORDS
from schemas.codec import SCHEMA_HEADER, Record
from schemas.facets import HOST_FACETS, VM_FACETS
from schemas.facets.host import StorageClaim
from schemas.ownership import fields_of

CHANNELS: dict[str, tuple[str, ...]] = {
    "host.reports": ("HostReport", "Tick"),
    "vm.observations": ("ObservationBatch", "IntentCopy"),
    "vm.intents": ("Intent",),
    "resync.requests": ("ResyncRequest",),
    "vm.changes": ("VmChange",),
    "vm.state": ("VmHead", "VmFacet"),
    "host.changes": ("HostChange",),
    "host.state": ("HostState",),
}
"""Which records travel on which topic."""


def _of_custom_type(kind: type) -> dict[str, Any]:
    raise NotImplementedError(f"no JSON Schema for {kind}")


def _schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    (reference,), components = msgspec.json.schema_components(
        (kind,), schema_hook=_of_custom_type, ref_template="#/$defs/{name}"
    )
    return {"$ref": reference["$ref"], "$defs": _binary(components)}


def _binary(node: Any) -> Any:
    """Base64 is JSON's way to carry bytes; here they are MessagePack `bin`."""
    if isinstance(node, dict):
        if node.get("contentEncoding") == "base64":
            return {"type": "string", "format": "binary"}
        return {key: _binary(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_binary(item) for item in node]
    return node


def json_schema(kind: type[Record]) -> dict[str, Any]:
    """JSON Schema of a record, with its version and the owners of its fields."""
    schema = _schema(kind)
    owners = {name: owner.value for name, owner in fields_of(kind).items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"deltavisor:{kind.SCHEMA}",
        "title": kind.SCHEMA.record,
        "x-version": f"{kind.SCHEMA.major}.{kind.SCHEMA.minor}",
        "x-public": kind.PUBLIC,
        **({"x-owners": owners} if owners else {}),
        **schema,
    }


def facet_schemas() -> dict[str, Any]:
    """JSON Schema of every facet, by name, with field owners."""
    kinds: dict[str, type[msgspec.Struct]] = {
        **{name.value: kind for name, kind in VM_FACETS.items()},
        **{name.value: kind for name, kind in HOST_FACETS.items()},
        "storage_claim": StorageClaim,
    }
    return {
        name: {"x-owners": {field: owner.value for field, owner in fields_of(kind).items()}, **_schema(kind)}
        for name, kind in kinds.items()
    }


def asyncapi() -> dict[str, Any]:
    """AsyncAPI 3.0 page of the topics and their messages."""
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Deltavisor", "version": "1.0.0", "description": "Changes of a fleet of virtual machines."},
        "defaultContentType": "application/msgpack",
        "channels": {
            topic: {
                "address": topic,
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
            }
            for topic, names in CHANNELS.items()
        },
        "components": {
            "messages": {
                name: {
                    "title": name,
                    "headers": {
                        "type": "object",
                        "properties": {SCHEMA_HEADER: {"type": "string", "const": str(kind.SCHEMA)}},
                    },
                    "payload": {"$ref": f"./{name}.json"},
                }
                for name, kind in RECORDS.items()
            }
        },
    }


def files() -> Mapping[str, str]:
    """Name -> text of every generated file."""
    pages: dict[str, Any] = {f"{name}.json": json_schema(kind) for name, kind in RECORDS.items()}
    pages["facets.json"] = facet_schemas()
    pages["asyncapi.json"] = asyncapi()
    return {name: json.dumps(page, indent=2, ensure_ascii=False) + "\n" for name, page in pages.items()}


def main(folder: Path) -> None:
    """Write the reference into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
