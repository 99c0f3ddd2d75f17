"""A line of its own for every test: a topic prefix, topics, and workers that do not outlive it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.runtime.kafka import make_admin
from infra.runtime.settings import KafkaSettings
from infra.stack.endpoints import Endpoints
from tests.integration.streams.fleet import Line


@pytest.fixture
def line(endpoints: Endpoints, tmp_path: Path) -> Iterator[Line]:
    """Topics exist, no worker runs yet."""
    kafka = KafkaSettings(bootstrap=endpoints.kafka, topic_prefix=f"line-{uuid.uuid4().hex[:8]}.")
    made = Line(kafka=kafka, directory=tmp_path)
    made.create_topics()
    try:
        yield made
    finally:
        made.close()
        admin = make_admin(kafka)
        ours = [name for name in admin.list_topics(timeout=10).topics if name.startswith(kafka.topic_prefix)]
        for future in admin.delete_topics(ours).values():
            future.result()
