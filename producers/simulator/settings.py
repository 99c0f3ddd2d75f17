"""Settings of the simulator: table `[simulator]`, variables `DELTAVISOR_SIMULATOR__…`."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator

from infra.runtime.errors import ConfigError
from infra.runtime.settings import ComponentSettings
from producers.simulator.life import parse_phases


class SimulatorSettings(ComponentSettings):
    """Which fleet, and what life there is in it."""

    component: ClassVar[str] = "simulator"

    hosts: int = Field(default=20, ge=1, le=100_000)
    vms: int = Field(default=6_000, ge=0)
    """Dealt out to the hosts in turn; at most 20,000 per host."""
    seed: int = 7
    """The same seed makes the same fleet, with the same ids, everywhere."""
    rate: float = Field(default=50.0, ge=0, le=100_000)
    """Happenings a second in busy phases."""
    life: str = ""
    """Phases such as `busy:30,stable:20`; after the last one the fleet stays stable. Empty: always busy."""
    started: bool = True
    """VMs run when the simulation begins."""
    truth_file: Path | None = None
    """Where the ground truth is written whenever a stable phase begins, and at the end; `.msgpack`, else JSON."""

    @field_validator("life")
    @classmethod
    def _has_phases(cls, life: str) -> str:
        try:
            parse_phases(life)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return life
