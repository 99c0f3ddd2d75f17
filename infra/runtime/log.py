"""Logging set-up: constant event names with key/value fields on stderr, as JSON or for eyes, ours and the libraries'.

Ours are written with :func:`get_logger`. What Faust, aiokafka and librdkafka log comes through the same handler as
event ``library_log``, rate-limited per message, since one of them writes thousands of lines during a broker outage.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import msgspec
import structlog

from infra.runtime.secret import MASK, Secret
from infra.runtime.settings import LogFormat, LogSettings

EventDict = MutableMapping[str, Any]

NOISY_LIBRARIES = ("aiokafka", "asyncio", "confluent_kafka", "faust", "kafka", "mode", "urllib3")
"""Logged from WARNING up, whatever our level is: their INFO is not about our life-cycle."""

MAX_TEXT_CHARACTERS = 4_096
"""Longer texts are cut: a log line is no place for a payload."""

_SECRET_FIELD = re.compile(r"password|passwd|secret|token|credential|authorization|private_key", re.IGNORECASE)
_SECRET_IN_TEXT = re.compile(
    r"(?P<url>://[^\s:/@]*:)[^\s@/]+(?=@)"
    r"|(?P<pair>\b(?:sasl[._])?(?:password|passwd|secret|token)\s*[=:]\s*)(?:'[^']*'|\"[^\"]*\"|[^\s,;'\"]+)",
    re.IGNORECASE,
)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger for a module, usable before and after :func:`configure_logging`."""
    return structlog.stdlib.get_logger(name)


def configure_logging(
    settings: LogSettings, *, component: str, process: str | None = None, stream: TextIO | None = None
) -> None:
    """Send all logging of this process to ``stream``, by default stderr. Called once by ``main``; safe to repeat.

    ``process`` tells several processes of one component apart, as in ``hosts-2``.
    """
    identity = {"component": component, "process": process or component, "pid": os.getpid()}

    def identify(logger: object, method: str, event: EventDict) -> EventDict:
        return {**event, **identity}

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        identify,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        # Cached loggers would keep an earlier configuration, and nothing of ours logs often enough to gain by it.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _name_library_event],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact,
                *_renderers(settings.format, handler.stream),
            ],
        )
    )
    handler.addFilter(LibraryRateLimit(RateLimit()))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    level = logging.getLevelNamesMapping()[settings.level]
    root.setLevel(level)
    for name in NOISY_LIBRARIES:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)


def redact(logger: object, method: str, event: EventDict) -> EventDict:
    """The same event without secrets: by the name of a field, by type, and by what passwords in URLs look like."""
    return {name: _redacted(name, value) for name, value in event.items()}


class RateLimit(msgspec.Struct, frozen=True, kw_only=True):
    """How many records of one message template pass in each window. Templates beyond the limit share one count."""

    records: int = 5
    window_seconds: float = 30.0
    templates: int = 256


class LibraryRateLimit(logging.Filter):
    """Lets the first few records of each message through and counts the rest.

    The first one of the next window carries the count as ``suppressed``. Our own records always pass.
    """

    def __init__(self, policy: RateLimit) -> None:
        super().__init__()
        self._policy = policy
        self._windows: dict[tuple[str, str], _Window] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.msg, dict):  # structlog hands over its event as a mapping
            return True
        key = (record.name, str(record.msg)[:100])
        if key not in self._windows and len(self._windows) >= self._policy.templates:
            key = ("", "")
        window = self._windows.setdefault(key, _Window(record.created))
        if record.created - window.opened_at >= self._policy.window_seconds:
            record.suppressed = window.suppressed
            window.opened_at, window.passed, window.suppressed = record.created, 0, 0
        if window.passed >= self._policy.records:
            window.suppressed += 1
            return False
        window.passed += 1
        return True


class _Window:
    __slots__ = ("opened_at", "passed", "suppressed")

    def __init__(self, opened_at: float) -> None:
        self.opened_at = opened_at
        self.passed = 0
        self.suppressed = 0


def _name_library_event(logger: object, method: str, event: EventDict) -> EventDict:
    record = event.get("_record")
    suppressed = getattr(record, "suppressed", 0)
    counted = {"suppressed": suppressed} if suppressed else {}
    return {**event, "event": "library_log", "message": event["event"], **counted}


def _renderers(form: LogFormat, stream: TextIO) -> list[structlog.typing.Processor]:
    if form is LogFormat.CONSOLE:
        return [structlog.dev.ConsoleRenderer(colors=stream.isatty(), timestamp_key="at")]
    return [structlog.processors.JSONRenderer()]


def _redacted(name: str, value: object) -> object:
    if isinstance(value, Secret) or (_SECRET_FIELD.search(name) and value is not None):
        return MASK
    if isinstance(value, str):
        clean = _SECRET_IN_TEXT.sub(_mask, value)
        return clean if len(clean) <= MAX_TEXT_CHARACTERS else clean[:MAX_TEXT_CHARACTERS] + "…"
    return value


def _mask(match: re.Match[str]) -> str:
    return (match["url"] or match["pair"]) + MASK
