from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from quince.errors import InvalidRequest
from quince.text.media import MediaItem, MediaLimits, MediaLoader, MediaReference, check_kinds
from tests.text.media.bad_media import BAD_MEDIA
from tests.text.media.pictures import VIDEOS, data_url, picture
from tests.text.media.web_server import PUBLIC, Names, public_backend, web_server

LIMITS: dict[str, Any] = {
    "directories": (),
    "allow_private": True,
    "max_bytes": 10**6,
    "max_request_bytes": 2 * 10**6,
    "max_items": 8,
    "max_pixels": 10**6,
    "timeout": 0.5,
}


def loader(**limits: Any) -> MediaLoader:
    return MediaLoader(MediaLimits(**LIMITS | limits))


def references(*urls: str) -> list[MediaReference]:
    return [MediaReference("image", url, f"messages.0.content.{number}.image_url") for number, url in enumerate(urls)]


async def refusal(made: MediaLoader, *urls: str) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        await made.load(references(*urls))
    error = refused.value
    assert error.param is not None and error.message.startswith(f"{error.param}: ")
    return error


async def test_from_everywhere_in_order(tmp_path: Path) -> None:
    pictures = [picture(size=(number + 1, 1)) for number in range(4)]
    (tmp_path / "a.png").write_bytes(pictures[1])
    (tmp_path / "b.png").write_bytes(pictures[2])
    async with web_server({"c": pictures[3]}) as web:
        urls = [data_url(pictures[0]), str(tmp_path / "a.png"), f"file://{tmp_path}/b.png", f"{web.url}/c"]
        items = await loader(directories=(tmp_path,)).load(references(*urls))
    assert [item.data for item in items] == pictures
    assert [item.digest for item in items] == [hashlib.sha256(data).hexdigest() for data in pictures]
    assert [item.param for item in items] == [f"messages.0.content.{number}.image_url" for number in range(4)]


async def test_kind_and_detail_stay() -> None:
    gif = picture("GIF")
    given = [
        MediaReference("image", data_url(gif), "a", "high"),
        MediaReference("video", data_url(gif), "b"),
        MediaReference("video", data_url(VIDEOS["MP4"]), "c"),
    ]
    digest = hashlib.sha256(gif).hexdigest()
    items = await loader().load(given)
    assert items[:2] == [MediaItem("image", gif, digest, "a", "high"), MediaItem("video", gif, digest, "b")]
    assert (items[2].kind, items[2].data) == ("video", VIDEOS["MP4"])


async def test_what_is_named_several_times_is_fetched_once() -> None:
    async with web_server({"a": picture()}) as web:
        items = await loader().load(references(*[f"{web.url}/a"] * 5))
        assert len(web.requests) == 1
    assert len({item.param for item in items}) == 5


async def test_nothing_to_load() -> None:
    assert await loader().load([]) == []


async def test_large_files_are_worked_on_beside_the_loop() -> None:
    large = picture("BMP", (500, 500))
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    (item,) = await loader().load(references(data_url(large)))
    ticking.cancel()
    assert item.data == large
    assert ticks > 3


@pytest.mark.parametrize(("url", "named"), BAD_MEDIA)
async def test_bad_media(url: str, named: str) -> None:
    """The second of two, so that it is the one that the error names."""
    error = await refusal(loader(allow_private=False), data_url(picture()), url)
    assert named in error.message
    assert error.param == "messages.0.content.1.image_url"
    assert (error.status, error.type) == (400, "invalid_request_error")
    assert "password@" not in error.message


async def test_too_large_an_item() -> None:
    assert "larger than 1000000 bytes" in (await refusal(loader(), data_url(bytes(10**6 + 1)))).message


async def test_of_several_faults_the_first_is_named() -> None:
    error = await refusal(loader(), data_url(picture()), "data:,", "data:,a", "data:,")
    assert error.param == "messages.0.content.1.image_url"


async def test_too_many_items() -> None:
    error = await refusal(loader(), *["http://never.test/"] * 100)
    assert error.param == "messages.0.content.8.image_url"
    assert "at most 8" in error.message


async def test_too_many_bytes_together() -> None:
    large = [data_url(picture("BMP", (500, 400 + number))) for number in range(4)]
    assert "together" in (await refusal(loader(), *large)).message


async def test_a_redirect_to_loopback() -> None:
    names = Names(pictures=[[PUBLIC]])
    names.answers["127.0.0.1"] = [["127.0.0.1"]]
    backend, _ = public_backend(names)
    async with web_server({"a": picture()}) as web:
        web.redirects["there"] = f"{web.url}/a"
        error = await refusal(
            MediaLoader(MediaLimits(**LIMITS | {"allow_private": False}), backend),
            f"http://pictures.test:{web.port}/there",
        )
    assert "no public address" in error.message


async def test_the_first_fault_ends_the_other_downloads() -> None:
    async with web_server() as web:
        made = loader(timeout=60)
        error = await refusal(made, f"{web.url}/drip", f"{web.url}/silent", f"{web.url}/404")
        assert "404" in error.message
        assert error.param == "messages.0.content.2.image_url"


async def test_cancelling_ends_all_downloads() -> None:
    async with web_server() as web:
        loading = asyncio.create_task(loader(timeout=60).load(references(f"{web.url}/drip", f"{web.url}/silent")))
        async with asyncio.timeout(5):
            while len(web.requests) < 2:
                await asyncio.sleep(0.005)
            loading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await loading
            while len(web.left) < 2:
                await asyncio.sleep(0.005)


async def test_downloads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quince.text.media.loader.MAX_DOWNLOADS", 2)
    async with web_server() as web:
        loading = asyncio.create_task(loader(timeout=60).load(references(*(f"{web.url}/drip?{n}" for n in range(6)))))
        await asyncio.sleep(0.2)
        assert web.open == 2
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading


def test_models_say_what_they_read() -> None:
    given = [MediaReference("image", "", "here"), MediaReference("video", "", "there")]
    check_kinds(given, {"image", "video"})
    check_kinds([], ())
    with pytest.raises(InvalidRequest, match="here: this model reads text only: it cannot be given images"):
        check_kinds(given, ())
    with pytest.raises(InvalidRequest, match="there: this model reads text and images only") as refused:
        check_kinds(given, {"image"})
    assert refused.value.param == "there"
