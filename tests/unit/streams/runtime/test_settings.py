"""Times that must fit together, names derived, secrets that stay secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.runtime.errors import ConfigError
from streams.runtime.settings import HostsStreamSettings, VmsStreamSettings


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    return path


def test_group_and_instance_are_derived(tmp_path: Path) -> None:
    file = _write(tmp_path, '[kafka]\ntopic_prefix = "lab."\n[vms]\nworker_name = "2"\n')
    settings = VmsStreamSettings.load(file, {})
    assert settings.group == "lab.deltavisor-vms"
    assert settings.instance == "vms-2"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("delivery_timeout_seconds = 5.0", "must be below half of session_timeout_seconds"),
        ("heartbeat_interval_seconds = 4.0", "at most a third of session_timeout_seconds"),
        ('worker_name = "a b"', "worker_name"),
        ("max_in_flite = 5", "max_in_flight"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, line: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        VmsStreamSettings.load(_write(tmp_path, f"[vms]\n{line}\n"), {})


def test_the_tick_key_comes_from_a_file_and_is_not_printed(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("0123456789abcdef\n")
    settings = HostsStreamSettings.load(_write(tmp_path, '[hosts]\ntick_key_file = "key"\n'), {})
    assert settings.tick_secret == b"0123456789abcdef"
    assert "0123456789" not in repr(settings)


def test_a_missing_or_short_tick_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tick_key"):
        HostsStreamSettings.load(None, {})
    (tmp_path / "key").write_text("short")
    with pytest.raises(ConfigError, match="fewer than 16 characters"):
        HostsStreamSettings.load(_write(tmp_path, '[hosts]\ntick_key_file = "key"\n'), {})
