"""Requests that arrive together reach their engine together, which then computes their prompts in one pass.

Handed over one by one, the first of a burst would be prefilled alone and the others after it: their weights are read
twice, and the first one's row is a few tokens ahead of the rest for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from quince.engine.messages import ToEngine

# From a request's arrival to ``put`` its task is resumed about so many times, with all others that have arrived.
QUIET_PASSES = 12
LIMIT = 0.03  # seconds that a message is held back at most


class Outbox:
    """Sends what was ``put`` when the event loop has been round ``QUIET_PASSES`` times without any more: at once, in
    human terms, where nothing else is to be done. Used by the event loop's thread alone."""

    def __init__(self, send: Callable[[Sequence[ToEngine]], None]) -> None:
        self._send = send
        self._messages: list[ToEngine] = []
        self._quiet = 0
        self._deadline = 0.0

    def put(self, message: ToEngine) -> None:
        self._quiet = 0
        self._messages.append(message)
        if len(self._messages) == 1:
            self._deadline = time.monotonic() + LIMIT
            asyncio.get_running_loop().call_soon(self._pass)

    def flush(self) -> None:
        messages, self._messages = self._messages, []
        if messages:
            self._send(messages)

    def clear(self) -> None:
        """Forget what has not been sent."""
        self._messages = []

    def _pass(self) -> None:
        self._quiet += 1
        if self._messages and self._quiet < QUIET_PASSES and time.monotonic() < self._deadline:
            asyncio.get_running_loop().call_soon(self._pass)
        else:
            self.flush()
