"""The Faust app of a stage: proven settings, one agent, one table. Faust consumes, assigns and commits."""

from __future__ import annotations

from typing import Any

import faust
import mode

from infra.runtime.kafka import faust_broker
from streams.runtime.consumer import InputTransport
from streams.runtime.ending import EndProcess
from streams.runtime.intake import Intake
from streams.runtime.ownership import Ownership
from streams.runtime.settings import REQUEST_TIMEOUT_SECONDS, StreamSettings
from streams.runtime.stage import Stage
from streams.runtime.table import CoreTable, CoreTableManager

RAW = "raw"


class StreamApp(faust.App):  # type: ignore[misc]
    """An app whose consumer is ours, and which leaves no directories behind."""

    ownership: Ownership
    intake: Intake
    end_process: EndProcess
    transport_kind: type[InputTransport]

    def _new_transport(self) -> InputTransport:
        return self.transport_kind(self.conf.broker_consumer, self)

    def _create_directories(self) -> None:
        """Nothing is kept on disk."""


def make_app(
    settings: StreamSettings,
    stage: Stage,
    ownership: Ownership,
    intake: Intake,
    end: EndProcess,
    transport: type[InputTransport] = InputTransport,
) -> StreamApp:
    """The app, finalised and ready for a worker. ValueError when Faust would decode values itself."""
    app = StreamApp(settings.group, **app_settings(settings))
    app.ownership = ownership
    app.intake = intake
    app.end_process = end
    app.transport_kind = transport
    prefix = settings.kafka.topic_prefix
    app.tables.add(
        CoreTable(
            app,
            log_topic=prefix + stage.table_topic,
            ownership=ownership,
            name=stage.name,
            key_type=bytes,
            value_type=bytes,
            partitions=settings.topics.partitions,
            beacon=app.beacon,
        )
    )
    topic = app.topic(prefix + stage.inputs[0], key_type=bytes, value_type=bytes)
    app.topics.add(topic)
    app.finalize()
    app.worker_init()
    app.worker_init_post_autodiscover()
    require_raw(app, topic)
    return app


def app_settings(settings: StreamSettings) -> dict[str, Any]:
    """Faust's settings for a stage."""
    broker = faust_broker(settings.kafka)
    return {
        "broker": broker.url,
        "broker_credentials": broker.credentials,
        "broker_client_id": settings.kafka.client_id,
        "autodiscover": False,
        "store": "memory://",
        "TableManager": CoreTableManager,
        "web_enabled": False,
        "web_tables_enabled": False,
        # Our topic admin made the topics; Faust's leader election would need one more.
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "table_standby_replicas": 0,
        # Our store says that it has more than Faust may see, which is not an inconsistency.
        "recovery_consistency_check": False,
        "processing_guarantee": "at_least_once",
        "agent_supervisor": mode.CrashingSupervisor,
        # Without these a value Faust cannot decode is committed and never processed.
        "key_serializer": RAW,
        "value_serializer": RAW,
        "consumer_auto_offset_reset": "earliest",
        "consumer_group_instance_id": settings.instance,
        "consumer_max_fetch_size": 4 * 1024 * 1024,
        "stream_buffer_maxsize": 4_096,
        "stream_wait_empty": True,
        "stream_recovery_delay": 0.0,
        "broker_session_timeout": settings.session_timeout_seconds,
        "broker_heartbeat_interval": settings.heartbeat_interval_seconds,
        "broker_request_timeout": REQUEST_TIMEOUT_SECONDS,
        "broker_rebalance_timeout": 30.0,
        "broker_max_poll_interval": 300.0,
        "broker_commit_interval": 1.0,
        "broker_commit_every": 10_000,
    }


def require_raw(app: Any, topic: Any) -> None:
    """Bytes go through Faust untouched; otherwise a decode error loses records silently."""
    serializers = {
        "app.key_serializer": app.conf.key_serializer,
        "app.value_serializer": app.conf.value_serializer,
        "topic.key_serializer": topic.key_serializer or app.conf.key_serializer,
        "topic.value_serializer": topic.value_serializer or app.conf.value_serializer,
    }
    if wrong := {name: value for name, value in serializers.items() if value != RAW}:
        raise ValueError(f"Faust would decode records itself: {wrong}")
