"""Settings of the agent: what they mean for its policy, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.runtime.errors import ConfigError
from producers.agent.settings import AgentSettings
from producers.simulator.settings import SimulatorSettings


def test_file_environment_and_flags(tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(
        '[kafka]\nbootstrap = "one:1"\n'
        "[agent]\nheartbeat_seconds = 3.0\nrelist_seconds = 30.0\n"
        "[simulator]\nhosts = 4\n"
    )
    env = {"DELTAVISOR_AGENT__RELIST_SECONDS": "40", "DELTAVISOR_SIMULATOR__VMS": "12"}
    settings = AgentSettings.load(file, env, {"kafka.bootstrap": "two:2"})
    assert settings.kafka.bootstrap == "two:2"
    assert settings.policy().heartbeat_seconds == 3.0
    assert settings.policy().relist_seconds == 40.0
    simulator = SimulatorSettings.load(file, env, {"hosts": None, "seed": 3})
    assert (simulator.hosts, simulator.vms, simulator.seed) == (4, 12, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [("HEARTBEAT_SECONDS", "60"), ("MAX_IN_FLIGHT", "0"), ("DELIVERY_TIMEOUT_SECONDS", "1"), ("HARTBEAT", "5")],
)
def test_what_can_not_be_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        AgentSettings.load(None, {f"DELTAVISOR_AGENT__{name}": value})
