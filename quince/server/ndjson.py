"""Newline-delimited JSON: how Ollama's API streams. One object a line; an error behind the headers is a line, too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.types import Send

from quince.errors import QuinceError
from quince.metrics import current_request
from quince.server.sse import EventStream

logger = logging.getLogger(__name__)


class NdjsonStream(EventStream):
    """``chunks`` are complete lines. There is no line that says nothing, so silence is not filled."""

    media_type = "application/x-ndjson"

    async def _keep_alive(self, send: Send) -> None:
        await asyncio.Event().wait()


async def lines(
    objects: AsyncGenerator[Any, None], encode_error: Callable[[QuinceError], bytes]
) -> AsyncGenerator[bytes, None]:
    """One line for each object. What is raised before the first is raised here, an ordinary HTTP error."""
    started = False
    try:
        async with aclosing(objects) as source:
            async for one in source:
                yield msgspec.json.encode(one) + b"\n"
                started = True
    except Exception as error:  # the boundary: a failure behind the headers is a line
        if not started:
            raise
        if not isinstance(error, QuinceError):
            logger.error("a stream failed", exc_info=error)
            error = QuinceError("The server had an unexpected error; its log says more.")
        current_request().fail(error)
        yield encode_error(error) + b"\n"
