"""The versions whose private hooks this runtime uses. Another one may work, or lose changes: it has to be tested first.

What is hooked: the aiokafka consumer inside Faust's thread, its fetcher and coordination task, the order of calls in a
rebalance, and the memory store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version

from infra.runtime.errors import ConfigError

TESTED: Mapping[str, str] = {"faust-streaming": "0.15.3", "aiokafka": "0.14.0", "mode-streaming": "0.7.1"}


def require_tested_versions(installed: Callable[[str], str] = version) -> None:
    """ConfigError when another version is installed."""
    found = {name: installed(name) for name in TESTED}
    wrong = [f"{name} {found[name]} (tested: {wanted})" for name, wanted in TESTED.items() if found[name] != wanted]
    if wrong:
        raise ConfigError(
            f"untested versions are installed: {', '.join(wrong)}",
            where="stream runtime",
            advice="install requirements/run.txt",
        )
