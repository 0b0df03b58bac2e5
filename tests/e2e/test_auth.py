"""A server with keys, met with the official clients and with bare sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.helpers import arguments, assert_error_shape, async_client, chat_body, http_client, sync_client
from tests.e2e.server_process import ServerProcess

CHAT = "/v1/chat/completions"
KEYS = ("sk-first-of-two", "sk-zweiter")
WRONG = "sk-mistaken"
ORIGIN = "http://localhost:3000"
BODY = chat_body(max_tokens=8)


@pytest.fixture(scope="module")
def locked(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with two keys from the environment, and one origin; no key is ever in its log."""
    args = (str(model_dir), "--cors-origin", ORIGIN, "--log-level", "debug")
    env = {"QUINCE_API_KEY": ", ".join(KEYS)}
    with ServerProcess(tmp_path_factory.mktemp("locked") / "log", *args, env=env) as process:
        yield process.wait_ready()
        assert not [key for key in (*KEYS, WRONG) if key in process.logs()]


@pytest.mark.parametrize("key", KEYS)
def test_the_official_client_with_a_key(locked: ServerProcess, key: str) -> None:
    with sync_client(locked.base_url) as client:
        client.api_key = key
        assert client.models.list().data
        answer = client.chat.completions.create(**arguments(BODY))
        with client.chat.completions.create(stream=True, **arguments(BODY)) as stream:
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == answer.choices[0].message.content


@pytest.mark.parametrize("key", [WRONG, "none", KEYS[0] + "0"])
def test_the_official_client_with_a_wrong_key(locked: ServerProcess, key: str) -> None:
    with sync_client(locked.base_url) as client:
        client.api_key = key
        for stream in (False, True):
            with pytest.raises(openai.AuthenticationError) as refused:
                client.chat.completions.create(stream=stream, **arguments(BODY))
            assert refused.value.code == "invalid_api_key"
            assert refused.value.request_id
            assert key not in str(refused.value)
        with pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_x_api_key(locked: ServerProcess) -> None:
    url = locked.base_url + CHAT
    assert locked.http.post(url, json=BODY, headers={"x-api-key": KEYS[1]}).status_code == 200
    refused = locked.http.post(url, json=BODY, headers={"x-api-key": WRONG})
    assert_error_shape(refused, 401)
    assert refused.headers["www-authenticate"] == "Bearer"


def test_health_is_open(locked: ServerProcess) -> None:
    assert locked.get("/health").status_code == 200
    assert locked.http.head(locked.base_url + "/health").status_code == 200
    assert_error_shape(locked.get("/docs"), 401)


def test_the_answer_does_not_wait_for_the_body(locked: ServerProcess) -> None:
    """Nothing of what was announced is sent, and a header in no encoding is no trouble."""
    url = httpx2.URL(locked.base_url)
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99999999\r\n"
    with socket.create_connection((url.host, url.port or 80), timeout=5) as connection:
        connection.sendall(head.encode() + b"authorization: Bearer \xff\xfe\x80\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_a_body_that_was_not_read_is_no_next_request(locked: ServerProcess) -> None:
    """On a connection that stays open, what follows a refused request is told from its body."""
    url = httpx2.URL(locked.base_url)
    body = json.dumps(chat_body("quince " * 50_000)).encode()
    refused = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    with socket.create_connection((url.host, url.port or 80), timeout=5) as connection:
        connection.sendall(refused + b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        text = b"".join(iter(lambda: connection.recv(65536), b""))
    assert text.count(b"HTTP/1.1 ") == 2
    assert text.index(b"HTTP/1.1 401 ") < text.index(b"HTTP/1.1 200 ")


def test_a_page_of_the_origin_may_stream(locked: ServerProcess) -> None:
    url = locked.base_url + CHAT
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    preflight = locked.http.options(url, headers={"origin": ORIGIN, **asked})
    assert preflight.status_code == 200
    streamed = locked.http.post(url, json={**BODY, "stream": True}, headers={"origin": ORIGIN, "x-api-key": KEYS[0]})
    refused = locked.http.post(url, json=BODY, headers={"origin": ORIGIN})
    assert (streamed.status_code, refused.status_code) == (200, 401)
    for answer in (preflight, streamed, refused):
        assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert streamed.headers["x-request-id"].startswith("chatcmpl-")


async def test_300_wrong_keys_do_not_disturb_a_stream(locked: ServerProcess) -> None:
    body = arguments(chat_body("Undisturbed.", max_tokens=2000))
    async with async_client(locked.base_url) as client, http_client(locked.base_url) as http:
        client.api_key = KEYS[0]
        alone = await client.chat.completions.create(**body)
        async with await client.chat.completions.create(stream=True, **body) as stream:
            pieces = [await anext(stream)]
            knocking = asyncio.create_task(knock(http, 300))
            during = 0
            async for chunk in stream:
                pieces.append(chunk)
                during += not knocking.done()
        assert await knocking == [401] * 300
    assert during > 0
    text = "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
    assert text == alone.choices[0].message.content


async def knock(http: httpx2.AsyncClient, times: int) -> list[int]:
    """That many requests with a wrong key, a few at a time; their statuses."""
    room = asyncio.Semaphore(20)

    async def once() -> int:
        async with room:
            headers = {"authorization": f"Bearer {WRONG}"}
            return (await http.post(CHAT, json=chat_body("quince " * 1000), headers=headers)).status_code

    return await asyncio.gather(*(once() for _ in range(times)))


def test_keys_and_origins_as_flags(start_server: StartServer) -> None:
    """They beat the environment."""
    flags = ("--api-key", KEYS[0], "--api-key", KEYS[1], "--cors-origin", ORIGIN, "--cors-origin", "https://b.example")
    server = start_server(*flags, env={"QUINCE_API_KEY": WRONG, "QUINCE_CORS_ORIGIN": "https://c.example"})
    for key, status in ((KEYS[0], 200), (KEYS[1], 200), (WRONG, 401)):
        assert server.http.get(server.base_url + "/v1/models", headers={"x-api-key": key}).status_code == status
    for origin in (ORIGIN, "https://b.example", "https://c.example"):
        answer = server.http.get(server.base_url + "/health", headers={"origin": origin})
        expected = None if "c.example" in origin else origin
        assert answer.headers.get("access-control-allow-origin") == expected


@pytest.mark.parametrize("path", ["/metrics", "/stats", "/v1/queue/stats", "/v1/mlx/status"])
def test_figures_are_kept_in(locked: ServerProcess, path: str) -> None:
    assert locked.get(path).status_code == 401
    assert locked.http.get(locked.base_url + path, headers={"x-api-key": KEYS[0]}).status_code == 200
