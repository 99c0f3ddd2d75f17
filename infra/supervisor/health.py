"""Asks a part whether it is ready, as a load balancer would."""

from __future__ import annotations

import urllib3

from infra.supervisor.part import PartState, Phase

_ANSWER_SECONDS = 1.0


def is_ready(part: PartState) -> bool:
    """True when the part runs and says at /readyz that it works; a part without a port is ready when it runs."""
    if part.phase is not Phase.RUNNING:
        return False
    if part.http_port is None:
        return True
    url = f"http://127.0.0.1:{part.http_port}/readyz"
    try:
        answer = urllib3.request("GET", url, timeout=_ANSWER_SECONDS, retries=False)
    except urllib3.exceptions.HTTPError:
        return False
    return answer.status == 200
