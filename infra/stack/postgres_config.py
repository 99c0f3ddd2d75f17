"""The embedded PostgreSQL's configuration, as pure functions: sized for a laptop, measured for the delta sink."""

from __future__ import annotations

from pathlib import Path

from infra.stack.ports import LOOPBACK

HBA = """\
local all all scram-sha-256
host  all all 127.0.0.1/32 scram-sha-256
"""
"""Who may connect: everybody with a password, from this machine."""


def server_settings(
    *, port: int, hba: Path, socket_directory: Path | None, shared_buffers_mib: int, durable: bool
) -> dict[str, str]:
    """Return the settings by name, values quoted as the file needs them."""
    settings = {
        "listen_addresses": _quoted(LOOPBACK),
        "port": str(port),
        "hba_file": _quoted(str(hba)),
        "unix_socket_directories": _quoted(str(socket_directory or "")),
        "unix_socket_permissions": "0700",
        "password_encryption": _quoted("scram-sha-256"),
        "max_connections": "100",
        "shared_buffers": _quoted(f"{shared_buffers_mib}MB"),
        # After a checkpoint the first touch of every page goes whole into the log, so checkpoints are rare.
        "checkpoint_timeout": _quoted("15min"),
        "max_wal_size": _quoted("2GB"),
        # The embedded build has neither lz4 nor zstd, and pglz costs three times the CPU.
        "wal_compression": "off",
        "autovacuum_naptime": _quoted("10s"),
        "vacuum_cost_limit": "2000",
        "random_page_cost": "1.1",
        # Planning code costs more than it saves on the short statements of a sink.
        "jit": "off",
        # Latency figures are read from the commit times of rows.
        "track_commit_timestamp": "on",
        "timezone": _quoted("UTC"),
        "log_timezone": _quoted("UTC"),
        "lc_messages": _quoted("C"),
        "log_line_prefix": _quoted("%m [%p] %q%u@%d "),
        "log_checkpoints": "off",
    }
    if not durable:
        settings |= {"fsync": "off", "full_page_writes": "off"}
    return settings


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
