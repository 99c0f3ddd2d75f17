"""How a worker ends when it must not go on: at once, with a code, and without committing anything more.

An orderly stop would wait for inputs in flight and commit what was acknowledged; after a failed delivery or a lost
input neither may happen, and mode's stop was seen to hang for a minute in a rebalance.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from infra.runtime.errors import DeltavisorError, ExitCode
from infra.runtime.log import get_logger

_log = get_logger(__name__)

EndProcess = Callable[[BaseException], object]
"""Ends the process because of this error. Tests put something in its place that only remembers it."""


def end_process(error: BaseException) -> NoReturn:
    """Log the failure once and leave with its exit code; 70 for an error nobody foresaw. Safe from any thread."""
    code = error.exit_code if isinstance(error, DeltavisorError) else ExitCode.INTERNAL
    if isinstance(error, DeltavisorError):
        _log.error("worker_failed", error=str(error), error_type=type(error).__name__, exit_code=int(code))
    else:
        _log.error("worker_failed", error_type="unforeseen", exit_code=int(code), exc_info=error)
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(int(code))
