"""The libvirt source: what an agent watches on a real host.

Inside this package ``import libvirt`` is the binding, which only `event_loop` and `connection` (and what imports
them) need; everything else is pure and runs without it. `open_source` is the way in from outside.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from infra.runtime.errors import ConfigError
from schemas.ids import BootId, HostId, MachineId

if TYPE_CHECKING:
    from producers.libvirt.source import LibvirtSource

DEFAULT_URI = "qemu:///system"


def open_source(
    uri: str = DEFAULT_URI,
    *,
    host_id: HostId | None = None,
    machine_id: MachineId | None = None,
    boot_id: BootId | None = None,
    run_directory: Path | None = None,
) -> LibvirtSource:
    """The source for the libvirtd at ``uri``, not yet connected (`LibvirtSource.setup` does that).

    What is not given is read from this host; see `LibvirtSource`. Raises ConfigError when the binding is missing.
    """
    try:
        from producers.libvirt.source import LibvirtSource
    except ImportError as error:
        raise ConfigError(
            "the libvirt binding can not be loaded",
            where="libvirt source",
            advice=f"run infra/stack/libvirt.sh, then try again ({error})",
        ) from error
    return LibvirtSource(uri, host_id=host_id, machine_id=machine_id, boot_id=boot_id, run_directory=run_directory)
