"""Waits of requests that can be ended from outside."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence

from quince.errors import RequestCancelled


class Interruptions:
    """The blocks in which requests wait, by their ids. For one event loop."""

    def __init__(self) -> None:
        self._blocks: dict[str, asyncio.Timeout] = {}

    @contextlib.asynccontextmanager
    async def block(self, request_ids: Sequence[str]) -> AsyncIterator[None]:
        """``end`` with one of these ids ends the block at once, which then raises RequestCancelled. It must not
        yield."""
        try:
            async with asyncio.timeout(None) as block:
                self._blocks.update(dict.fromkeys(request_ids, block))
                yield
        except TimeoutError:
            if not block.expired():
                raise
        finally:
            for request_id in request_ids:
                self._blocks.pop(request_id, None)
        if block.when() is not None:  # also if what it waited for came in the same turn of the loop
            raise RequestCancelled("the request was cancelled")

    def end(self, request_ids: Iterable[str] | None = None) -> list[str]:
        """End their blocks (None: all). Returns those that had one."""
        found = [name for name in (self._blocks if request_ids is None else request_ids) if name in self._blocks]
        for block in {self._blocks.pop(name) for name in found}:
            block.reschedule(asyncio.get_running_loop().time())
        return found
