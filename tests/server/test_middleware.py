"""Request ids, HEAD and CORS: what every answer has, whatever went wrong."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable

import httpx2
import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from quince.config import ServeConfig
from quince.models.manager import ModelManager
from quince.server.app import create_app
from quince.server.middleware import KINDS

ORIGIN = {"origin": "http://localhost:3000"}
KEY = {"x-api-key": "key"}
JSON = {"content-type": "application/json"}
PREFLIGHT = {**ORIGIN, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}


def make_app(cors_origin: Iterable[str] = ("http://localhost:3000", "https://chat.example")) -> FastAPI:
    """The application, with a route that has a bug and one that streams."""
    config = ServeConfig.model_validate({"cors_origin": cors_origin, "api_key": ["key"], "max_body_size": 2048})
    app = create_app(config, ModelManager(config))

    @app.get("/bug")
    async def bug() -> None:
        raise RuntimeError("a detail that is nobody's business")

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"one"
            yield b"two"

        return StreamingResponse(pieces(), headers={"X-Request-Id": "chatcmpl-its-own"})

    @app.get("/cut")
    async def cut() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"one"
            raise RuntimeError("in the middle of an answer")

        return StreamingResponse(pieces())

    return app


def connect(app: FastAPI) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test")


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with connect(make_app()) as made:
        yield made


# What can be answered: method, path, headers, body, and the status
ANSWERS = [
    ("GET", "/v1/models", KEY, b"", 200),
    ("GET", "/stream", KEY, b"", 200),
    ("POST", "/v1/chat/completions", {**KEY, **JSON}, b"{}", 400),
    ("POST", "/v1/chat/completions", {**KEY, **JSON}, b"{", 400),
    ("GET", "/v1/models", {}, b"", 401),
    ("GET", "/nothing", KEY, b"", 404),
    ("GET", "/static-offline-docs/nothing", KEY, b"", 404),
    ("GET", "/v1/chat/completions", KEY, b"", 405),
    ("OPTIONS", "/v1/chat/completions", KEY, b"", 405),
    ("POST", "/v1/chat/completions", {**KEY, **JSON}, b" " * 9999, 413),
    ("GET", "/bug", KEY, b"", 500),
    ("GET", "/health", {}, b"", 503),
]


@pytest.mark.parametrize(("method", "path", "headers", "content", "status"), ANSWERS)
async def test_every_answer_has_an_id_and_its_cors_headers(
    client: httpx2.AsyncClient, method: str, path: str, headers: dict[str, str], content: bytes, status: int
) -> None:
    answer = await client.request(method, path, headers={**headers, **ORIGIN}, content=content)
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == ORIGIN["origin"]
    assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
    (request_id,) = answer.headers.get_list("x-request-id")
    assert request_id.startswith("chatcmpl-its-own" if path == "/stream" else "req-")


@pytest.mark.parametrize(("method", "path", "headers", "content", "status"), [one for one in ANSWERS if one[4] >= 400])
async def test_every_error_has_the_shape(
    client: httpx2.AsyncClient, method: str, path: str, headers: dict[str, str], content: bytes, status: int
) -> None:
    answer = await client.request(method, path, headers=headers, content=content)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    if path != "/health":
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"] and error["type"]
        assert "nobody's business" not in answer.text
    if status == 405:
        assert answer.headers["allow"] == "POST"


async def test_a_server_that_is_loading_does_not_fill_its_log(
    client: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "quince.requests")
    assert (await client.get("/health")).status_code == 503
    assert caplog.records == []


async def test_a_bug_is_logged_with_the_answer_s_id(
    client: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await client.get("/bug", headers=KEY)
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert answer.headers["x-request-id"] in record.getMessage()
    assert record.exc_info is not None and "nobody's business" in str(record.exc_info[1])


async def test_every_request_is_a_line_of_the_log(client: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "quince.requests")
    await client.get("/v1/models", headers=KEY)
    await client.post("/v1/chat/completions", content=b"{}", headers={**KEY, **JSON})
    with pytest.raises(RuntimeError, match="in the middle"):
        await client.get("/cut", headers=KEY)
    await client.get("/bug", headers=KEY)
    lines = [one for one in caplog.records if one.name == "quince.requests"]
    found = [(one.levelname, one.getMessage(), vars(one)["fields"].get("error")) for one in lines]
    assert found == [
        ("INFO", "GET /v1/models", None),
        ("INFO", "POST /v1/chat/completions", "invalid_request_error"),
        ("WARNING", "GET /cut", "server_error"),
        ("WARNING", "GET /bug", "server_error"),
    ]
    assert [vars(one)["fields"].get("outcome") for one in lines] == [None, "error", None, None]


async def test_ids_differ_and_are_not_the_client_s(client: httpx2.AsyncClient) -> None:
    headers = {**KEY, "x-request-id": "mine"}
    ids = {(await client.get("/v1/models", headers=headers)).headers["x-request-id"] for _ in range(5)}
    assert len(ids) == 5
    assert "mine" not in ids


async def test_a_preflight_needs_no_key(client: httpx2.AsyncClient) -> None:
    answer = await client.options("/v1/chat/completions", headers=PREFLIGHT)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN["origin"]
    assert "authorization" in answer.headers["access-control-allow-headers"]
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["x-request-id"]


async def test_other_origins_get_nothing(client: httpx2.AsyncClient) -> None:
    other = {"origin": "http://localhost:3001"}
    assert (await client.options("/v1/models", headers={**PREFLIGHT, **other})).status_code == 400
    answer = await client.get("/v1/models", headers={**KEY, **other})
    assert "access-control-allow-origin" not in answer.headers


async def test_every_origin() -> None:
    async with connect(make_app(["*"])) as client:
        for headers in (KEY, {}):
            answer = await client.get("/v1/models", headers={**headers, "origin": "null"})
            assert answer.headers["access-control-allow-origin"] == "*"
        assert (await client.options("/v1/models", headers=PREFLIGHT)).headers["access-control-allow-origin"] == "*"


async def test_no_origin_no_headers() -> None:
    async with connect(make_app([])) as client:
        answers = [
            await client.get("/v1/models", headers={**KEY, **ORIGIN}),
            await client.options("/v1/chat/completions", headers=PREFLIGHT),
        ]
    assert not [name for answer in answers for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(("path", "status"), [("/health", 503), ("/v1/models", 200), ("/v1/chat/completions", 405)])
async def test_head_is_answered_where_get_is(client: httpx2.AsyncClient, path: str, status: int) -> None:
    head = await client.head(path, headers=KEY)
    get = await client.get(path, headers=KEY)
    assert head.status_code == get.status_code == status
    assert head.headers["content-length"] == get.headers["content-length"]


OTHERS = {"/v1/tokenize", "/v1/detokenize", "/v1/cancel", "/api/show", "/api/pull", "/api/copy"}


def test_every_route_is_counted_or_known_to_be_of_no_kind() -> None:
    """A new API says here what its requests are."""
    paths = {path for path, methods in make_app([]).openapi()["paths"].items() if "post" in methods}
    assert {path for path in paths if not path.startswith("/v1/models/")} - OTHERS <= set(KINDS)
