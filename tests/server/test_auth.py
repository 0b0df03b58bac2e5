"""API keys, in front of the real application without an engine behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import httpx2
import pytest

from quince.config import ServeConfig
from quince.models.manager import ModelManager
from quince.server.app import create_app

KEYS = ["first-key", "zweiter-schlüssel", "3,with,commas"]


def make_client(config: ServeConfig) -> httpx2.AsyncClient:
    app = create_app(config, ModelManager(config))
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test")


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with make_client(ServeConfig.model_validate({"api_key": KEYS})) as made:
        yield made


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"Authorization", b"Bearer " + key.encode())]


def x_api_key(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"X-Api-Key", key.encode())]


@pytest.mark.parametrize("header", [bearer, x_api_key])
@pytest.mark.parametrize("key", KEYS)
async def test_every_key_opens(
    client: httpx2.AsyncClient, key: str, header: Callable[[str], list[tuple[bytes, bytes]]]
) -> None:
    assert (await client.get("/v1/models", headers=header(key))).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        bearer("mistaken"),
        bearer(""),
        bearer(KEYS[0] + "x"),
        bearer(KEYS[0][:-1]),
        bearer(KEYS[0].upper()),
        bearer(f"{KEYS[0]} {KEYS[1]}"),
        x_api_key("mistaken"),
        x_api_key(""),
        x_api_key(f"Bearer {KEYS[0]}"),
        x_api_key(",".join(KEYS)),
        x_api_key("\N{SNOWMAN}"),
        [(b"Authorization", b"Bearer \xff\xfe\x80")],
        [(b"Authorization", KEYS[0].encode())],
        [(b"Authorization", b"Basic " + KEYS[0].encode())],
        [(b"Authorization", b"Bearer" + KEYS[0].encode())],
        [(b"X-Api-Key", "zweiter-schlüssel".encode("latin-1"))],
        [(b"Cookie", b"api_key=" + KEYS[0].encode())],
    ],
    ids=repr,
)
async def test_anything_else_does_not(client: httpx2.AsyncClient, headers: list[tuple[bytes, bytes]]) -> None:
    answer = await client.get("/v1/models", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-request-id"]
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, "invalid_api_key")
    assert not any(key in answer.text for key in (*KEYS, "mistaken"))


@pytest.mark.parametrize("scheme", [b"bearer ", b"BEARER   "])
async def test_the_scheme_has_no_case(client: httpx2.AsyncClient, scheme: bytes) -> None:
    headers = [(b"authorization", scheme + KEYS[0].encode() + b" ")]
    assert (await client.get("/v1/models", headers=headers)).status_code == 200


async def test_one_right_key_among_several_is_enough(client: httpx2.AsyncClient) -> None:
    """Clients that know several APIs send a placeholder in the header that they think is not used."""
    headers = [*x_api_key("none"), *bearer("none"), *bearer(KEYS[1])]
    assert (await client.get("/v1/models", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/", "/docs", "/redoc", "/openapi.json", "/static-offline-docs/redoc.standalone.js", "/metrics", "/nothing"],
)
async def test_everything_needs_the_key(client: httpx2.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 401
    assert (await client.get(path, headers=bearer(KEYS[0]))).status_code != 401


@pytest.mark.parametrize("path", ["//health", "/health/", "/v1/../health", "/Health", "/health/x", "/health%2f"])
async def test_only_health_itself_is_open(client: httpx2.AsyncClient, path: str) -> None:
    assert (await client.get("/health")).status_code == 503  # the manager is not started
    if httpx2.URL("http://test" + path).path != "/health":
        assert (await client.get(path)).status_code == 401


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"])
async def test_every_method_needs_the_key(client: httpx2.AsyncClient, method: str) -> None:
    assert (await client.request(method, "/v1/chat/completions")).status_code == 401


async def test_the_body_is_not_read() -> None:
    """Nor is a body that is too large discarded for somebody without a key."""
    config = ServeConfig.model_validate({"api_key": KEYS})
    app = create_app(config, ModelManager(config))
    sent = []

    async def receive() -> dict[str, object]:
        raise AssertionError("the body was read")

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    headers = [(b"content-length", b"99999999999"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers, "query_string": b""}
    await app(scope, receive, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 401


async def test_without_keys_nobody_is_asked() -> None:
    async with make_client(ServeConfig()) as client:
        for headers in ([], bearer("whatever")):
            assert (await client.get("/v1/models", headers=headers)).status_code == 200
