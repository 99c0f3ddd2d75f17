"""A session libvirtd of our own, with real QEMU domains: no systemd, no KVM, no root at run time.

Started by root it runs as an unprivileged user. Everything lives in one private directory with a short path (the name
of a unix socket has at most 107 bytes), and everything is ended by process id. The domains are emulated and tiny; they
start in about half a second and boot nothing, or a boot sector that powers off or panics.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from schemas.ids import VmId
from tests.integration.libvirt.domains import IMAGE_BYTES, boot_sector, disk_xml, domain_xml
from tests.integration.libvirt.domains import Guest as Guest

_SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_START_SECONDS = 20.0
_STOP_SECONDS = 10.0
_UNPRIVILEGED = "nobody"
_AFFECT_LIVE = 1
"""VIR_DOMAIN_AFFECT_LIVE."""
_UNDEFINE_MANAGED_SAVE = 1
"""VIR_DOMAIN_UNDEFINE_MANAGED_SAVE."""
_MIGRATE_LIVE = 1
_MIGRATE_UNSAFE = 512
"""VIR_MIGRATE_LIVE and VIR_MIGRATE_UNSAFE: both sides have the same files here, which libvirt can not know."""
_METADATA_TITLE = 1
"""VIR_DOMAIN_METADATA_TITLE."""

_DAEMON_CONFIG = """\
auth_unix_ro = "none"
auth_unix_rw = "none"
log_level = 3
log_outputs = "3:file:{log}"
host_uuid = "{host_uuid}"
"""

_QEMU_CONFIG = """\
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
remember_owner = 0
dynamic_ownership = 0
"""


def why_unavailable() -> str | None:
    """What is missing to run this, or None."""
    if find_spec("libvirt") is None:
        return "the libvirt binding is not installed; run infra/stack/libvirt.sh"
    for program in ("libvirtd", "qemu-system-x86_64"):
        if shutil.which(program, path=_SBIN) is None:
            return f"{program} is not installed; run infra/stack/libvirt.sh"
    account = _UNPRIVILEGED if os.geteuid() == 0 else None
    try:
        pwd.getpwuid(os.geteuid()) if account is None else pwd.getpwnam(account)
    except KeyError:
        return f"libvirt needs an account for user {account or os.geteuid()}, and there is none"
    return None


def eventually(true: Callable[[], object], what: str, timeout_seconds: float = 10.0) -> None:
    """Wait until ``true()``; raises AssertionError naming ``what`` when it stays false."""
    deadline = time.monotonic() + timeout_seconds
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout_seconds:.0f} s still not: {what}")
        time.sleep(0.02)


class SessionLibvirtd:
    """One daemon and its domains. Use as a context manager, or call ``start`` and ``close``.

    Domains outlive ``stop``, ``kill`` and ``restart`` of the daemon, as they do on a host; ``close`` ends them all.
    """

    def __init__(self) -> None:
        self._account = pwd.getpwnam(_UNPRIVILEGED) if os.geteuid() == 0 else None
        self._directory = Path(tempfile.mkdtemp(prefix="dvl-", dir="/tmp"))
        self._daemon: subprocess.Popen[bytes] | None = None
        for name in ("home", "run", "config/libvirt", "cache"):
            self._directory.joinpath(name).mkdir(parents=True)
        self._directory.joinpath("config/libvirt/qemu.conf").write_text(_QEMU_CONFIG)
        self._directory.joinpath("libvirtd.conf").write_text(
            _DAEMON_CONFIG.format(log=self._directory / "libvirtd.log", host_uuid=uuid4())
        )
        if self._account is not None:
            for path in (self._directory, *self._directory.rglob("*")):
                os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def uri(self) -> str:
        """What a client opens; the same over all restarts."""
        return f"qemu+unix:///session?socket={self._socket}"

    @property
    def run_directory(self) -> Path:
        """Where libvirtd keeps sockets and the process id files of QEMU."""
        return self._directory / "run/libvirt"

    @property
    def log(self) -> str:
        """What the daemon complained about; for a failing test."""
        path = self._directory / "libvirtd.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start the daemon and wait until it accepts connections."""
        # A daemon that was killed leaves its socket, which refuses every connection.
        self._socket.unlink(missing_ok=True)
        directory = self._directory
        self._daemon = subprocess.Popen(
            [
                shutil.which("libvirtd", path=_SBIN) or "libvirtd",
                f"--config={directory / 'libvirtd.conf'}",
                f"--pid-file={directory / 'libvirtd.pid'}",
            ],
            cwd=directory,
            env={
                "PATH": _SBIN,
                "LANG": "C.UTF-8",
                "HOME": str(directory / "home"),
                "XDG_RUNTIME_DIR": str(directory / "run"),
                "XDG_CONFIG_HOME": str(directory / "config"),
                "XDG_CACHE_HOME": str(directory / "cache"),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            user=None if self._account is None else self._account.pw_uid,
            group=None if self._account is None else self._account.pw_gid,
            extra_groups=None if self._account is None else [],
        )
        eventually(self._accepts, f"libvirtd accepts connections\n{self.log}", _START_SECONDS)

    def stop(self) -> None:
        """Ask the daemon to end, and wait; its domains run on."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the daemon: clients see the end of the stream, the socket stays and refuses."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start again."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, until ``thaw``."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT after ``freeze``."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End all domains and the daemon, and remove the directory; safe to call twice."""
        if self._directory.exists():
            self._end(signal.SIGKILL)
            for pid in self._qemu_pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(self._directory)

    def clear(self) -> None:
        """Remove all domains, running or defined; starts the daemon if it was stopped."""
        if self._daemon is None:
            self.start()
        self.thaw()
        eventually(self._emptied, "all domains are gone", _STOP_SECONDS)

    def _emptied(self) -> bool:
        import libvirt

        with self._connected() as connection:
            for domain in connection.listAllDomains(0):
                # One that is dying by itself refuses what the next round repeats.
                with contextlib.suppress(libvirt.libvirtError):
                    if domain.isActive():
                        domain.destroy()
                    if domain.isPersistent():
                        domain.undefineFlags(_UNDEFINE_MANAGED_SAVE)
            return not connection.listAllDomains(0)

    def define(self, name: str, *, vm_id: VmId | None = None, guest: Guest = Guest.NONE) -> VmId:
        """Define a persistent domain, not started."""
        vm_id = VmId(uuid4().bytes) if vm_id is None else vm_id
        document = self._domain_xml(name, vm_id, guest)
        with self._connected() as connection:
            connection.defineXML(document)
        return vm_id

    def create_transient(self, name: str) -> VmId:
        """Start a domain that has no definition: when it ends, nothing of it is left."""
        vm_id = VmId(uuid4().bytes)
        document = self._domain_xml(name, vm_id, Guest.NONE)
        with self._connected() as connection:
            connection.createXML(document, 0)
        return vm_id

    def start_vm(self, name: str) -> None:
        """Start a defined domain; returns when it runs."""
        self._call(name, "create")

    def pause_vm(self, name: str) -> None:
        """Stop the vCPUs."""
        self._call(name, "suspend")

    def resume_vm(self, name: str) -> None:
        """Let the vCPUs go on."""
        self._call(name, "resume")

    def destroy_vm(self, name: str) -> None:
        """End the process at once, as an administrator does."""
        self._call(name, "destroy")

    def reset_vm(self, name: str) -> None:
        """Press the reset button."""
        self._call(name, "reset")

    def save_vm(self, name: str) -> None:
        """Managed save: memory to disk, process ended."""
        self._call(name, "managedSave")

    def migrate_vm(self, name: str, destination: SessionLibvirtd, *, port: int, mib_per_second: int = 0) -> None:
        """Migrate live, over loopback, to another daemon here; returns when it is over, raises if it failed."""
        with self._connected() as here, destination._connected() as there:
            parameters: dict[str, Any] = {"migrate_uri": f"tcp://127.0.0.1:{port}"}
            if mib_per_second:
                parameters["bandwidth"] = mib_per_second
            here.lookupByName(name).migrate3(there, parameters, _MIGRATE_LIVE | _MIGRATE_UNSAFE)

    def abort_job(self, name: str) -> None:
        """Cancel what runs on a domain, such as its migration."""
        self._call(name, "abortJob")

    def undefine_vm(self, name: str) -> None:
        """Remove the definition; a running domain becomes transient."""
        self._call(name, "undefine")

    def plug_nic(self, name: str, mac: str) -> None:
        """Hot-plug a NIC with user networking (needs no privilege)."""
        nic = f"<interface type='user'><mac address='{mac}'/><model type='virtio'/></interface>"
        self._call(name, "attachDeviceFlags", nic, _AFFECT_LIVE)

    def plug_disk(self, name: str, target: str) -> Path:
        """Hot-plug a disk backed by a small file, whose path is returned."""
        image = self._image(f"{name}-{target}")
        self._call(name, "attachDeviceFlags", disk_xml(image, target), _AFFECT_LIVE)
        return image

    def set_title(self, name: str, title: str) -> None:
        """Change metadata of the running domain."""
        self._call(name, "setMetadata", _METADATA_TITLE, title, None, None, _AFFECT_LIVE)

    def qemu_pid(self, name: str) -> int:
        """Process id of a running domain; works while the daemon is down too."""
        return int((self.run_directory / f"qemu/run/{name}.pid").read_text())

    def signal_qemu(self, name: str, number: signal.Signals) -> None:
        """Send a signal to QEMU behind libvirt's back, and wait until it is dead if that is what the signal means."""
        pid = self.qemu_pid(name)
        os.kill(pid, number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            eventually(lambda: not _runs(pid), f"QEMU {pid} of {name} is dead")

    def state_of(self, name: str) -> tuple[int, int]:
        """State and reason, in libvirt's numbers."""
        state, reason = self._call(name, "state")
        return state, reason

    @property
    def _socket(self) -> Path:
        return self.run_directory / "libvirt-sock"

    def _accepts(self) -> bool:
        if self._daemon is not None and self._daemon.poll() is not None:
            raise AssertionError(f"libvirtd ended with status {self._daemon.returncode}\n{self.log}")
        if not self._socket.exists():
            return False
        import libvirt

        try:
            libvirt.openReadOnly(self.uri).close()
        except libvirt.libvirtError:
            return False
        return True

    def _signal(self, number: signal.Signals) -> None:
        if self._daemon is not None and self._daemon.poll() is None:
            self._daemon.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self._daemon is None:
            return
        self._signal(signal.SIGCONT)
        self._signal(number)
        try:
            self._daemon.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait(_STOP_SECONDS)
        self._daemon = None

    def _qemu_pids(self) -> list[int]:
        pids = []
        for path in (self.run_directory / "qemu/run").glob("*.pid"):
            with contextlib.suppress(ValueError, OSError):
                pid = int(path.read_text())
                if self._directory.as_posix().encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    pids.append(pid)
        return pids

    def _domain_xml(self, name: str, vm_id: VmId, guest: Guest) -> str:
        if guest.value is None:
            return domain_xml(name, vm_id)
        boot = self._image(f"{name}-boot")
        with boot.open("r+b") as stream:
            stream.write(boot_sector(guest.value))
        return domain_xml(name, vm_id, devices=disk_xml(boot, "vda") + "<panic model='isa'/>")

    def _image(self, name: str) -> Path:
        image = self._directory / f"{name}.raw"
        with image.open("wb") as stream:
            stream.truncate(IMAGE_BYTES)
        if self._account is not None:
            os.chown(image, self._account.pw_uid, self._account.pw_gid)
        return image

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Any]:
        import libvirt

        connection = libvirt.open(self.uri)
        try:
            yield connection
        finally:
            connection.close()

    def _call(self, name: str, method: str, *arguments: object) -> Any:
        with self._connected() as connection:
            return getattr(connection.lookupByName(name), method)(*arguments)


def _runs(pid: int) -> bool:
    """False for a zombie too: QEMU's parent is init, which may take its time to reap."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
