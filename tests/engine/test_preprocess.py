"""The preprocessor's client, before a process that does as it is told, and before the real one."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import os
import signal
import sys
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from quince.engine.ipc import SocketDirectory
from quince.engine.media_messages import MediaType, PreprocessorConfig
from quince.engine.preprocess import MAX_TURNS, PREPROCESSOR_COMMAND, MediaFile, MediaPreprocessor, PreparedMedia
from quince.errors import EngineUnavailable, InvalidRequest, ModelLoadError, QueueFull, QueueTimeout
from tests import tiny_vision
from tests.engine import fake_preprocessor
from tests.vision_prompts import mp4, png

FAKE = (sys.executable, "-m", "tests.engine.fake_preprocessor")
NOTHING = 0  # bytes of cache


def file(data: bytes, *, param: str = "part", kind: MediaType = MediaType.IMAGE, small: bool = False) -> MediaFile:
    return MediaFile(kind, data, hashlib.sha256(data).hexdigest(), small, param)


@contextlib.asynccontextmanager
async def running(
    model_path: str = "",
    *,
    timeout: float = 20,
    cache_bytes: int = NOTHING,
    used_bytes: int = 10**6,
    command: tuple[str, ...] = FAKE,
    video_seconds: float = 20,
) -> AsyncIterator[tuple[MediaPreprocessor, Callable[[], list[Path]]]]:
    """A client, and what shows the files that it has."""
    sockets = SocketDirectory()
    config = PreprocessorConfig(address="media", model_path=model_path, max_pixels=10**6, video_seconds=video_seconds)
    client = MediaPreprocessor(
        config, sockets, timeout=timeout, command=command, cache_bytes=cache_bytes, used_bytes=used_bytes
    )
    client.start()
    try:
        yield client, lambda: sorted(sockets.path.glob("*-files/*"))
    finally:
        await client.stop()
        assert not list(sockets.path.glob("*-files")), "nothing is left behind"
        sockets.close()


async def prepared(client: MediaPreprocessor, *files: MediaFile) -> list[PreparedMedia]:
    async with client.prepare(files) as found:
        return found


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_files_are_there_until_the_block_ends() -> None:
    async with running() as (client, files):
        async with client.prepare([file(b"good 1"), file(b"good 2"), file(b"good 1")]) as found:
            assert [one.text for one in found] == ["MM"] * 3
            assert found[0].key == found[2].key != found[1].key
            assert len(files()) == 2
            assert np.load(found[1].arrays[0].path).tobytes() == b"good 2"
        assert not files()


async def test_the_bytes_of_files_are_not_held_while_they_are_used() -> None:
    async with running() as (client, _):
        files = [file(b"one"), file(b"two")]
        held = weakref.WeakSet(files)
        async with client.prepare(files):
            del files
            gc.collect()
            assert not held


async def test_what_was_prepared_is_kept_within_bounds_and_not_prepared_again() -> None:
    async with running(cache_bytes=2 * fake_preprocessor.NBYTES) as (client, files):
        first = (await prepared(client, file(b"good 1")))[0]
        await prepared(client, file(b"good 2"))
        again = (await prepared(client, file(b"good 1")))[0]
        assert again.arrays == first.arrays
        await prepared(client, file(b"good 3"))
        assert len(files()) == 2
        assert Path(first.arrays[0].path).exists(), "who was used last stays"
        assert (await prepared(client, file(b"good 1", small=True)))[0].arrays != first.arrays


async def test_two_that_want_the_same_share_the_work() -> None:
    async with running() as (client, files):
        found = await asyncio.gather(*(prepared(client, file(b"slow")) for _ in range(3)))
        assert len({one[0].arrays[0].path for one in found}) == 1
        assert not files()


async def test_a_bad_file_is_told_by_its_name() -> None:
    async with running() as (client, files):
        with pytest.raises(InvalidRequest, match=r"messages\.7: it cannot be read: it is bad") as caught:
            await prepared(client, file(b"good"), file(b"bad", param="messages.7"))
        assert caught.value.param == "messages.7"
        await until(lambda: not files())
        with pytest.raises(InvalidRequest, match="takes no videos"):
            await prepared(client, file(b"good", kind=MediaType.VIDEO))


async def test_requests_wait_while_others_use_half_of_what_may_be_used() -> None:
    async with running(used_bytes=4 * fake_preprocessor.NBYTES, timeout=1) as (client, files):
        await until(lambda: client._marks is not None)
        async with client.prepare([file(b"good 1"), file(b"good 2"), file(b"good 3")]):
            waiting = asyncio.create_task(prepared(client, file(b"good 4")))
            assert len(await prepared(client, file(b"good 1"))) == 1, "nothing is to be prepared for it"
            assert len(files()) == 3
            with pytest.raises(QueueTimeout, match="waited 1 s for the images of others"):
                await waiting
            waiting = asyncio.create_task(prepared(client, file(b"good 4")))
            await asyncio.sleep(0.05)
        assert len(await waiting) == 1
        assert not files()


async def test_more_than_may_be_used_is_refused() -> None:
    async with running(used_bytes=3 * fake_preprocessor.NBYTES) as (client, files):
        many = [file(b"good %d" % number, param=f"part {number}") for number in range(4)]
        with pytest.raises(InvalidRequest, match=r"part 3: prepared, .* more than 3000 bytes \(max_prepared_bytes\)"):
            await prepared(client, *many)
        await until(lambda: not files())
        async with client.prepare(many[:1]):
            with pytest.raises(QueueFull) as caught:
                await prepared(client, *many[1:])
            assert caught.value.retry_after
            await until(lambda: len(files()) == 1)
        assert len(await prepared(client, *many[:3])) == 3


async def test_who_leaves_early_leaves_no_files() -> None:
    async with running() as (client, files):
        await prepared(client, file(b"good"))  # it is up
        task = asyncio.create_task(prepared(client, file(b"slow 1"), file(b"slow 2")))
        await until(files)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await prepared(client, file(b"good again"))  # comes after both
        assert not files()


async def test_one_who_leaves_does_not_take_it_from_the_others() -> None:
    async with running() as (client, files):
        await prepared(client, file(b"good"))
        leaver, stayer = (asyncio.create_task(prepared(client, file(b"slow"))) for _ in range(2))
        await until(files)
        leaver.cancel()
        assert len(await stayer) == 1


async def test_a_death_is_told_to_those_who_wait_and_the_next_one_works() -> None:
    async with running(cache_bytes=10**6) as (client, files):
        async with client.prepare([file(b"good")]) as held:
            with pytest.raises(EngineUnavailable, match="exited with code 3: out of memory, says the fake") as caught:
                await prepared(client, file(b"die"))
            assert caught.value.retry_after
            assert Path(held[0].arrays[0].path).exists(), "an open request keeps what it has"
            assert len(files()) == 1, "nobody's files go with the process"
        await until(lambda: client.pid is not None)
        assert len(await prepared(client, file(b"good 2"))) == 1


async def test_a_death_is_told_to_those_who_wait_for_their_turn() -> None:
    async with running() as (client, _):
        await prepared(client, file(b"good"))
        waiting = [asyncio.create_task(prepared(client, file(b"hang %d" % turn))) for turn in range(MAX_TURNS)]
        waiting += [asyncio.create_task(prepared(client, file(b"good %d" % turn))) for turn in range(2)]
        await until(lambda: len(client._jobs) == MAX_TURNS)
        assert client.pid is not None
        os.kill(client.pid, signal.SIGKILL)
        told = await asyncio.gather(*waiting, return_exceptions=True)
        assert all("restarting: the preprocessor process was killed by signal 9" in str(error) for error in told), told
        assert all(isinstance(error, EngineUnavailable) for error in told)
        await until(lambda: client.pid is not None)
        assert len(await prepared(client, file(b"good 1"))) == 1


async def test_one_that_hangs_is_killed() -> None:
    async with running(timeout=1.0) as (client, _):
        for _ in range(20):  # on a busy machine, its start takes longer than what it gets for a file
            with contextlib.suppress(EngineUnavailable):
                await prepared(client, file(b"good"))
                break
        pid = client.pid
        with pytest.raises(EngineUnavailable, match="killed by signal 9"):
            await prepared(client, file(b"hang"))
        await until(lambda: client.pid not in (None, pid))


async def test_one_that_cannot_load_says_why() -> None:
    async with running("broken") as (client, _):
        with pytest.raises(ModelLoadError, match="the model cannot read images: broken: no such model"):
            await prepared(client, file(b"good"))


async def test_the_end_of_the_server_is_told() -> None:
    async with running() as (client, _):
        await prepared(client, file(b"good"))
        task = asyncio.create_task(prepared(client, file(b"hang")))
        await asyncio.sleep(0.05)
        await client.stop()
        with pytest.raises(EngineUnavailable, match="shutting down"):
            await task


# The real process


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_vision.save("qwen2_vl", tmp_path_factory.mktemp("preprocess") / "model"))


async def test_the_real_one(model_path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(model_path, timeout=60, command=PREPROCESSOR_COMMAND, video_seconds=0.05) as (client, files):
        whole = png(0)
        async with client.prepare([file(whole), file(png(2))]) as found:
            assert found[0].text == "<|image_pad|>" * found[0].tokens
            assert found[0].tokens == 6
            assert {array.name for array in found[0].arrays} == {"pixel_values", "image_grid_thw"}
            paths = [array.path for array in found[0].arrays if array.path]
            assert all(np.load(path).shape == (24, 1176) for path in paths)
            assert len(files()) == 2, "a grid of three numbers needs no file"
        for data, reason in (
            (whole[: len(whole) // 2], "truncated"),
            (b"no image at all", "no image of a known format"),
            (b"", "no image of a known format"),
        ):
            with pytest.raises(InvalidRequest, match=reason):
                await prepared(client, file(data))
        video = file(mp4(tmp_path).read_bytes(), kind=MediaType.VIDEO, param="messages.3")
        slow, picture = await asyncio.gather(
            prepared(client, video), prepared(client, file(png(1))), return_exceptions=True
        )
        assert str(slow) == "messages.3: it cannot be read: decoding it takes longer than 0.05 seconds"
        assert not isinstance(picture, BaseException), "pictures go on"
        assert not files()
        assert "transformers" not in caplog.text, "its advice is for those who train"
        assert client.pid is not None
        os.kill(client.pid, signal.SIGKILL)
        with pytest.raises(EngineUnavailable):
            for number in range(3, 100):
                await prepared(client, file(png(number)))
        await until(lambda: client.pid is not None)
        assert len(await prepared(client, file(whole))) == 1
