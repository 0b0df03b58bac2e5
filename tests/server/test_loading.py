"""Streams whose model is still being loaded: the real application and manager over fake engine processes."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette.types import Message, Scope

from quince.config import ServeConfig
from quince.models.manager import ModelManager
from quince.server.app import create_app
from quince.server.sse import DONE, KEEPALIVE
from tests.models.test_manager import Models
from tests.models.test_manager import models as models
from tests.server.test_sse import Client

PATHS = ("/v1/completions", "/v1/chat/completions")


class Caller(Client):
    """Asks for a stream of the model "one"."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        # The fake engine answers a prompt that begins with token 1; its context is too short for a conversation.
        prompt = {"prompt": [1, 10, 11]} if path == PATHS[0] else {"messages": [{"role": "user", "content": "x" * 500}]}
        self._body = [json.dumps({"model": "one", "stream": True, **prompt}).encode()]

    async def receive(self) -> Message:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        return await super().receive()

    async def call(self, manager: ModelManager, keepalive: float) -> None:
        app = create_app(ServeConfig(keepalive_interval=keepalive), manager)
        headers = [(b"content-type", b"application/json")]
        scope: Scope = {"type": "http", "method": "POST", "path": self._path, "headers": headers, "query_string": b""}
        await app(scope, self.receive, self.send)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])


async def test_a_stream_is_kept_alive_while_its_model_is_loaded(models: Models) -> None:
    models.add("one", marker="slow")
    async with models.manager() as manager:
        caller = Caller(PATHS[0])
        await caller.call(manager, keepalive=0.1)
        assert caller.status == 200
        assert caller.body.startswith(KEEPALIVE)
        assert caller.body.endswith(DONE) and b'"finish_reason":"length"' in caller.body
        assert [slot.running for slot in manager.slots] == [0]


@pytest.mark.parametrize("path", PATHS)
async def test_a_load_that_fails_before_is_an_http_error(models: Models, path: str) -> None:
    models.add("one", marker="broken")
    async with models.manager() as manager:
        caller = Caller(path)
        await caller.call(manager, keepalive=10)
        assert caller.status == 503 and b"no such model" in caller.body


@pytest.mark.parametrize("path", PATHS)
async def test_an_error_after_a_keepalive_is_an_event(models: Models, path: str) -> None:
    models.add("one", marker="slow")
    models.mark("one", "broken")
    async with models.manager() as manager:
        caller = Caller(path)
        await caller.call(manager, keepalive=0.1)
        assert caller.status == 200 and caller.body.startswith(KEEPALIVE)
        assert b'data: {"error":' in caller.body and b"no such model" in caller.body


async def test_a_client_that_leaves_does_not_wait_for_the_load(models: Models) -> None:
    models.add("one", marker="slow")
    async with models.manager() as manager:
        caller = Caller(PATHS[1])
        calling = asyncio.create_task(caller.call(manager, keepalive=10))
        while not manager.slots or not manager.slots[0].waiting:
            await asyncio.sleep(0.01)
        caller.left.set()
        await calling
        assert caller.sent == [] and not manager.slots[0].waiting
