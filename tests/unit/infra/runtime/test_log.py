"""Logging: one JSON object per event, libraries included and bounded, secrets left out."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from infra.runtime.log import LibraryRateLimit, RateLimit, configure_logging, get_logger
from infra.runtime.secret import Secret
from infra.runtime.settings import LogFormat, LogSettings


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    logging.captureWarnings(False)
    for handler in list(root.handlers):
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    structlog.reset_defaults()


def _configured(**settings: Any) -> io.StringIO:
    stream = io.StringIO()
    configure_logging(LogSettings(**settings), component="vms", process="vms-1", stream=stream)
    return stream


def _events(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_of_json_with_its_origin() -> None:
    stream = _configured()
    get_logger("streams.vms").info("service_ready", partitions=4)
    (event,) = _events(stream)
    assert event["event"] == "service_ready"
    assert (event["partitions"], event["level"], event["logger"]) == (4, "info", "streams.vms")
    assert (event["component"], event["process"]) == ("vms", "vms-1")
    assert event["at"].endswith("Z")
    assert isinstance(event["pid"], int)


def test_events_below_the_level_are_left_out() -> None:
    stream = _configured(level="WARNING")
    get_logger("a").info("unseen")
    get_logger("a").warning("seen")
    assert [event["event"] for event in _events(stream)] == ["seen"]


def test_the_console_format_is_for_eyes() -> None:
    stream = _configured(format=LogFormat.CONSOLE)
    get_logger("a").info("service_ready", partitions=4)
    assert "service_ready" in stream.getvalue()
    assert "partitions=4" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_libraries_come_under_one_event_name_from_warning_up() -> None:
    stream = _configured()
    logging.getLogger("aiokafka.cluster").info("unseen")
    logging.getLogger("aiokafka.cluster").error("no broker %s", "b1")
    (event,) = _events(stream)
    assert (event["event"], event["message"], event["logger"]) == ("library_log", "no broker b1", "aiokafka.cluster")


def test_a_library_in_an_outage_is_bounded_and_what_was_left_out_is_counted() -> None:
    limit = LibraryRateLimit(RateLimit(records=2, window_seconds=10.0))

    def record(at: float, message: str = "failed %s") -> logging.LogRecord:
        made = logging.LogRecord("aiokafka", logging.ERROR, "f.py", 1, message, ("x",), None)
        made.created = at
        return made

    assert [limit.filter(record(at)) for at in (0.0, 1.0, 2.0, 9.9)] == [True, True, False, False]
    assert limit.filter(record(3.0, "another %s"))
    next_window = record(10.0)
    assert limit.filter(next_window)
    assert vars(next_window)["suppressed"] == 2


def test_the_number_of_remembered_messages_is_bounded() -> None:
    limit = LibraryRateLimit(RateLimit(records=1, templates=3))

    def passes(message: str) -> bool:
        return limit.filter(logging.LogRecord("lib", logging.ERROR, "f.py", 1, message, None, None))

    assert [passes(f"message {number}") for number in range(6)] == [True, True, True, True, False, False]


def test_our_own_events_are_never_held_back() -> None:
    stream = _configured()
    for _ in range(50):
        get_logger("a").error("service_failed")
    assert len(_events(stream)) == 50


@pytest.mark.parametrize(
    "fields",
    [
        {"password": "hunter2"},
        {"kafka_sasl_password": "hunter2"},
        {"anything": Secret("hunter2")},
        {"url": "postgresql://sink:hunter2@db/line"},
        {"error": "connection to host=db password=hunter2 failed"},
        {"error": "sasl.password = 'hunter2'"},
        {"Authorization": "Bearer hunter2"},
    ],
)
def test_secrets_are_left_out(fields: dict[str, Any]) -> None:
    stream = _configured()
    get_logger("a").error("service_failed", **fields)
    assert "hunter2" not in stream.getvalue()
    assert "***" in stream.getvalue()


def test_secrets_in_a_traceback_and_in_library_messages_are_left_out() -> None:
    stream = _configured()
    try:
        raise RuntimeError("postgresql://sink:hunter2@db/line")
    except RuntimeError:
        get_logger("a").exception("service_failed")
    logging.getLogger("urllib3").warning("retrying http://u:hunter2@h/")
    assert "RuntimeError" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


def test_long_texts_are_cut() -> None:
    stream = _configured()
    get_logger("a").info("e", text="x" * 100_000)
    assert len(_events(stream)[0]["text"]) == 4_097


def test_warnings_are_logged() -> None:
    stream = _configured()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old option", UserWarning, stacklevel=1)
    assert "old option" in _events(stream)[0]["message"]


def test_configuring_twice_does_not_log_twice() -> None:
    _configured()
    stream = _configured()
    get_logger("a").info("once")
    assert len(_events(stream)) == 1
