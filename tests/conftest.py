"""What all tests share: one embedded Kafka and PostgreSQL per run, started when the first test needs them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from infra.stack.endpoints import Endpoints
from infra.stack.settings import StackSettings
from infra.stack.stack import Stack


@pytest.fixture(scope="session")
def endpoints() -> Iterator[Endpoints]:
    """Kafka and PostgreSQL of this run alone, without fsync; gone with their data at the end.

    Tests separate themselves by topic prefix and database.
    """
    stack = Stack(f"test-{os.getpid()}", settings=StackSettings(durable=False))
    try:
        yield stack.up(services={"kafka", "postgres"})
    finally:
        stack.reset()
