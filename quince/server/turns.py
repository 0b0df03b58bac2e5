"""Requests that come together begin one after the other, so that running streams need not wait for all of them."""

from __future__ import annotations

import asyncio
import collections


class Turns:
    """Lets one task go on in each iteration of the event loop.

    What else is ready, such as a stream's next token, is seen to between two turns.
    """

    def __init__(self) -> None:
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()
        self._taken = False  # this iteration's turn, or those of the waiting ones to come

    async def take(self) -> None:
        """Return in the order of the calls, each in an iteration of its own; at once if nobody is before."""
        loop = asyncio.get_running_loop()
        if not self._taken:
            self._taken = True
            loop.call_soon(self._give_next)
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _give_next(self) -> None:
        """Who has left (its task was cancelled) is passed over."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                asyncio.get_running_loop().call_soon(self._give_next)
                return
        self._taken = False
