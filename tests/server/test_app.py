"""How errors look to a client, over the real application without an engine behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from quince.config import ServeConfig
from quince.errors import UsageError
from quince.models.manager import ModelManager
from quince.server.app import create_app

TOOL = {"type": "function", "function": {"name": "f"}}
HI = [{"role": "user", "content": "hi"}]


def image(image_url: object) -> dict[str, Any]:
    content = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": image_url}]
    return {"messages": [{"role": "user", "content": content}]}


@pytest.fixture
def client() -> httpx2.AsyncClient:
    """The manager is not started: nothing here gets as far as a model."""
    config = ServeConfig(max_body_size=2048)
    app = create_app(config, ModelManager(config))
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.image_url"),
        (image({"url": 5}), "messages.0.content.1.image_url.url"),
        (image({"url": "x", "detail": "most"}), "messages.0.content.1.image_url.detail"),
        (image(5), "messages.0.content.1.image_url"),
        ({"messages": HI, "temperature": 3}, "temperature"),
        ({"messages": HI, "temperature": "0.5"}, "temperature"),
        ({"messages": HI, "max_tokens": -1}, "max_tokens"),
        ({"messages": HI, "max_tokens": 1.5}, "max_tokens"),
        ({"messages": HI, "stop": 5}, "stop"),
        ({"messages": HI, "stop": [5]}, "stop.0"),
        ({"messages": HI, "n": 0}, "n"),
        ({"messages": HI, "tools": [{"type": "function"}]}, "tools.0.function"),
        ({"messages": HI, "logprobs": "yes"}, "logprobs"),
        ({"messages": HI, "top_logprobs": 2}, "top_logprobs"),
        ({"messages": HI, "response_format": {"type": "xml"}}, "response_format"),
        ({"messages": HI, "response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"),
        ({"messages": HI, "guided_json": "[1]"}, "guided_json"),
        ({"messages": HI, "logit_bias": {"01": 1}}, "logit_bias.01"),
        ({"messages": HI, "tool_choice": "required"}, "tool_choice"),
        ({"messages": HI, "tools": [TOOL, TOOL]}, "tools"),
        ({"messages": HI, "frequency_penalty": 2.1}, "frequency_penalty"),
        ({"messages": HI, "logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"messages": HI, "functions": [{"name": "f"}]}, "functions"),
        ({"messages": HI, "stream": "yes"}, "stream"),
        ({"messages": HI, "model": "\ud83d"}, "model"),
        ({"messages": HI, "stop": ["a", "\ud83d"]}, "stop.1"),
    ],
)
async def test_a_bad_field_is_named(client: httpx2.AsyncClient, body: dict[str, Any], param: str) -> None:
    content = json.dumps(body).encode()
    answer = await client.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert error["message"]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"{", "not valid JSON"), (b'{"a": "\xff"}', "parsing"), (b"[" * 2000, "pars"), (b"", "required")],
)
async def test_an_unreadable_body_is_refused(client: httpx2.AsyncClient, content: bytes, said: str) -> None:
    headers = {"content-type": "application/json"}
    answer = await client.post("/v1/chat/completions", content=content, headers=headers)
    assert answer.status_code == 400
    assert said.lower() in answer.json()["error"]["message"].lower()


async def test_a_body_that_is_not_sent_as_json_is_told_so(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/v1/chat/completions", content=b"{}", headers={"content-type": "text/plain"})
    assert "application/json" in answer.json()["error"]["message"]


@pytest.mark.parametrize("announced", [True, False])
async def test_a_large_body_is_refused(client: httpx2.AsyncClient, announced: bool) -> None:
    async def pieces() -> Any:
        for _ in range(10):
            yield b" " * 1000

    content = b" " * 10_000 if announced else pieces()
    answer = await client.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nope", 404), ("GET", "/v1/chat/completions", 405)])
async def test_unknown_paths_and_methods(client: httpx2.AsyncClient, method: str, path: str, status: int) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_the_api_pages_need_no_network(client: httpx2.AsyncClient) -> None:
    for path in ("/docs", "/redoc"):
        page = (await client.get(path)).text
        assert "http://" not in page and "https://" not in page
    schema = (await client.get("/openapi.json")).json()
    assert "/v1/chat/completions" in schema["paths"]


async def test_health_before_the_start_is_503(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/health")
    assert answer.status_code == 503
    assert answer.headers["retry-after"]


def test_a_model_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no model"):
        ModelManager(ServeConfig(model=str(tmp_path / "nothing")))
