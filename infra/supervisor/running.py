"""A line that runs beside the caller: for the demo, benchmarks and tests, which look at it from outside."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.runtime.errors import ExitCode, FatalError
from infra.supervisor.child import LineSink
from infra.supervisor.health import is_ready
from infra.supervisor.part import Part, PartState, Phase
from infra.supervisor.supervisor import Supervisor

_ASK_SECONDS = 0.2


class RunningLine:
    """Parts under a supervisor in a thread of its own; leaving the context stops them in order."""

    def __init__(self, parts: Sequence[Part], lines: LineSink, *, states_file: Path | None = None) -> None:
        self._supervisor = Supervisor(parts, lines, states_file=states_file)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self.code = ExitCode.OK

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop every part in order; safe to repeat."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def states(self) -> list[PartState]:
        """The parts as they are now."""
        return self._supervisor.states()

    def wait_ready(self, seconds: float, watching: Callable[[], None] = lambda: None) -> None:
        """Return once every part is ready; calls `watching` meanwhile.

        Raises FatalError naming the parts that are not ready in time, at once when one refused to start.
        """
        deadline = time.monotonic() + seconds
        while True:
            states = self.states()
            refused = [state for state in states if state.phase is Phase.REFUSED]
            if refused:
                names = ", ".join(f"{state.name} ({state.last_exit})" for state in refused)
                raise FatalError(f"refused to start: {names}", advice="read its last lines above")
            waiting = [state.name for state in states if not is_ready(state)]
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise FatalError(
                    f"not ready after {seconds:.0f} s: {', '.join(waiting)}", advice="read their lines above"
                )
            watching()
            time.sleep(_ASK_SECONDS)

    def _run(self) -> None:
        self.code = self._supervisor.run(self._stop)
