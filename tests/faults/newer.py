"""A worker of a version that does not exist yet: newer rules, and newer minors of some records, each with a new field.

`python -m tests.faults.newer hosts|vms --config FILE` is such a worker. It is made here, before anything of a stage is
imported, from the parts of this version; the product has no way to choose it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import msgspec

import schemas.host_rows
import schemas.observation
import schemas.rules
import schemas.vm_change
import schemas.vm_state
from schemas.codec import Record, SchemaVersion, header_of

RULES_VERSION = schemas.rules.RULES_VERSION + 1

RECORDS = (
    (schemas.observation, "ObservationBatch"),
    (schemas.host_rows, "PartitionRow"),
    (schemas.vm_state, "VmHead"),
    (schemas.vm_change, "VmChange"),
)
"""Internal and public, arrays and maps, rows and messages."""


def newer_minor(kind: type[Record]) -> type[Record]:
    """The record with one more field, which has a default."""
    ours, config = kind.SCHEMA, kind.__struct_config__
    made: Any = msgspec.defstruct(
        kind.__name__,
        [("novelty", str, "of a newer minor")],
        bases=(kind,),
        namespace={"SCHEMA": SchemaVersion(record=ours.record, major=ours.major, minor=ours.minor + 1)},
        frozen=True,
        kw_only=True,
        array_like=config.array_like,
        forbid_unknown_fields=config.forbid_unknown_fields,
    )
    return cast(type[Record], made)


def _put(module: ModuleType, name: str, value: Any) -> None:
    vars(module)[name] = value


def become_newer() -> None:
    """From here on this process is the newer version."""
    _put(schemas.rules, "RULES_VERSION", RULES_VERSION)
    for module, name in RECORDS:
        _put(module, name, newer_minor(vars(module)[name]))
    # The one record that lives beside its stage: it forbids fields that its version does not have.
    from streams.vms import rows

    row = newer_minor(rows.VmsPartitionRow)
    _put(rows, "VmsPartitionRow", row)
    _put(rows, "_PARTITION_SCHEMA", header_of(row))


def main(stage: str, config: Path) -> int:
    """Run the worker; its exit code."""
    become_newer()
    from infra.runtime.lifecycle import run_service
    from infra.runtime.log import configure_logging
    from streams.hosts.app import build as build_hosts
    from streams.runtime.settings import HostsStreamSettings, StreamSettings, VmsStreamSettings
    from streams.runtime.worker import BuildStage, StreamService
    from streams.vms.app import build as build_vms

    settings: StreamSettings
    build: BuildStage
    if stage == "hosts":
        settings, build = HostsStreamSettings.load(config, os.environ, {}), build_hosts
    else:
        settings, build = VmsStreamSettings.load(config, os.environ, {}), build_vms
    configure_logging(settings.log, component=settings.component, process=settings.instance)
    return int(run_service(StreamService(settings, build), settings=settings.lifecycle))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[3])))
