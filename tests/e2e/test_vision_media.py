"""What a model that reads images is asked to read: pictures from everywhere, and what is none."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny_vision
from tests.e2e.helpers import assert_error_shape, chat_body, eventually, http_client
from tests.e2e.server_process import ServerProcess, wait_for
from tests.text.media.bad_media import BAD_MEDIA
from tests.text.media.pictures import data_url, picture
from tests.text.media.web_server import web_server

CHAT = "/v1/chat/completions"
TIMEOUT = 1.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vision.save("qwen2_vl", tmp_path_factory.mktemp("models") / "tiny-vision")


@pytest.fixture(scope="module")
def careful(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """With the settings that a server has by itself."""
    with ServerProcess(tmp_path_factory.mktemp("careful") / "log", str(model)) as process:
        yield process.wait_ready()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def trusting(model: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Reads a directory and its own network."""
    env = {
        "QUINCE_ALLOWED_MEDIA_PATH": str(pictures),
        "QUINCE_ALLOW_PRIVATE_MEDIA": "true",
        "QUINCE_MEDIA_TIMEOUT": str(TIMEOUT),
        "QUINCE_MAX_MEDIA_BYTES": str(2**20),  # reached before the timeout on a slow machine, too
    }
    with ServerProcess(tmp_path_factory.mktemp("trusting") / "log", str(model), env=env) as process:
        yield process.wait_ready()


def asking(*urls: str, **fields: Any) -> dict[str, Any]:
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return chat_body(messages=[{"role": "user", "content": [{"type": "text", "text": "Look: "}, *images]}], **fields)


@contextlib.contextmanager
def streaming(server: ServerProcess) -> Iterator[Iterator[str]]:
    """A text that is answered all the while, in pieces."""
    with server.http.stream("POST", server.base_url + CHAT, json=chat_body(max_tokens=1900, stream=True)) as answer:
        yield answer.iter_text()


def test_bad_media_are_refused_by_their_part_beside_a_stream(careful: ServerProcess) -> None:
    with streaming(careful) as pieces:
        for url, named in BAD_MEDIA:
            error = assert_error_shape(careful.post(CHAT, asking(data_url(picture()), url)), 400)
            assert error["param"] == "messages.0.content.2.image_url.url", url
            assert named in error["message"]
            assert next(pieces)
    wait_for(lambda: careful.stats()["running"] == 0, within=5, what="nothing runs")
    assert "Traceback" not in careful.logs()


def test_a_hundred_images(careful: ServerProcess) -> None:
    error = assert_error_shape(careful.post(CHAT, asking(*[data_url(picture())] * 100)), 400)
    assert error["param"] == "messages.0.content.33.image_url.url"
    assert "at most 32" in error["message"]


async def test_a_picture_is_the_same_from_everywhere(trusting: ServerProcess, pictures: Path) -> None:
    seen = picture(size=(64, 48))
    (pictures / "a.png").write_bytes(seen)
    async with web_server({"a.png": seen}, {"moved": "/a.png"}) as web, http_client(trusting.base_url) as http:
        urls = [data_url(seen), f"{web.url}/a.png", f"{web.url}/moved", f"file://{pictures}/a.png", f"{pictures}/a.png"]
        answers = [await http.post(CHAT, json=asking(url)) for url in urls]
        assert [answer.status_code for answer in answers] == [200] * len(urls)
        assert len({answer.json()["choices"][0]["message"]["content"] for answer in answers}) == 1


@pytest.mark.parametrize(
    ("path", "named"),
    [("drip", f"within {TIMEOUT:g} seconds"), ("silent", "within"), ("endless", "larger than"), ("404", "404")],
)
async def test_bad_servers_are_told_about(trusting: ServerProcess, path: str, named: str) -> None:
    async with web_server() as web, http_client(trusting.base_url) as http:
        for stream in (False, True):
            answer = await http.post(CHAT, json=asking(f"{web.url}/{path}", stream=stream))
            assert named in assert_error_shape(answer, 400)["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancelled_request_ends_its_download_at_once(trusting: ServerProcess, stream: bool) -> None:
    async with web_server() as web, http_client(trusting.base_url) as http:
        asked = asyncio.create_task(http.post(CHAT, json=asking(f"{web.url}/silent", stream=stream, n=2)))
        await asyncio.wait_for(web.begun.wait(), 10)
        cancelled = (await http.post("/v1/cancel")).json()["cancelled"]
        answer = await asked
        assert assert_error_shape(answer, 499)["code"] == "cancelled"
        assert cancelled == [answer.headers["x-request-id"]]

        async def ended() -> bool:
            return web.left == ["/silent"]

        await eventually(ended, within=TIMEOUT / 2, what="the download has ended")
        stats = await asyncio.to_thread(trusting.stats)
        assert stats["running"] == stats["waiting"] == 0


def test_files_outside_are_not_read(trusting: ServerProcess, pictures: Path) -> None:
    (pictures / "link.png").symlink_to("/etc/passwd")
    for path in ("/etc/passwd", "file:///etc/passwd", f"{pictures}-not/a.png", f"{pictures}/link.png"):
        error = assert_error_shape(trusting.post(CHAT, asking(path)), 400)
        assert "outside the directories" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_its_download(model: Path, tmp_path: Path, stream: bool) -> None:
    env = {"QUINCE_ALLOW_PRIVATE_MEDIA": "true"}
    with ServerProcess(tmp_path / "log", str(model), env=env) as server:
        server.wait_ready()
        async with web_server() as web, http_client(server.base_url) as http:
            asked = asyncio.create_task(http.post(CHAT, json=asking(f"{web.url}/silent", stream=stream)))
            await asyncio.wait_for(web.begun.wait(), 10)
            asked.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asked

            async def ended() -> bool:
                return web.left == ["/silent"]

            await eventually(ended, within=2, what="the download has ended")
            stats = await asyncio.to_thread(server.stats)
            assert stats["running"] == stats["waiting"] == 0
