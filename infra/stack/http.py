"""One GET against a server of the stack."""

from __future__ import annotations

import urllib3

from infra.stack.server import NotReady

OK = 200


def get(url: str, timeout_seconds: float) -> str:
    """Return the body of the answer; raise NotReady when there is none, or another status than 200."""
    with urllib3.PoolManager(retries=False) as pool:
        try:
            answer = pool.request("GET", url, timeout=timeout_seconds)
        except urllib3.exceptions.HTTPError as error:
            raise NotReady(f"GET {url}: {type(error).__name__}") from error
        if answer.status != OK:
            raise NotReady(f"GET {url}: status {answer.status}")
        return answer.data.decode(errors="replace")
