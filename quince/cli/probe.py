"""Asks a server of this machine how it is."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

from quince.server.registration import ServerRecord, reachable

TIMEOUT = 3.0  # seconds: a server that is well answers in a few milliseconds


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any


def ask(server: ServerRecord, path: str, *, key: str | None = None, timeout: float = TIMEOUT) -> Answer | None:
    """What GET ``path`` gives; None if there is no answer in time, or one that is no JSON."""
    connection = http.client.HTTPConnection(reachable(server.host), server.port, timeout=timeout)
    try:
        connection.request("GET", path, headers={} if key is None else {"Authorization": f"Bearer {key}"})
        response = connection.getresponse()
        return Answer(response.status, json.loads(response.read()))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
