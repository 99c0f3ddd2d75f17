"""One whole line per module: starting its processes takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.stack.endpoints import Endpoints
from tests.e2e.line import WholeLine


@pytest.fixture(scope="module")
def line(endpoints: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeLine]:
    """A running line without agents."""
    folder: Path = tmp_path_factory.mktemp("line")
    with WholeLine(endpoints, folder) as running:
        yield running
