"""Videos are decoded as mlx-vlm decodes them, by a process that ends with what is too much for it."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from mlx_vlm.utils import VideoSampling, load_video

from quince.engine import video, video_worker
from quince.engine.video import FrameChoice, VideoDecoder, VideoJob
from tests.vision_prompts import mp4

WHOLE = FrameChoice(fps=100, min_frames=2, max_frames=1000, factor=2)
PIXELS = 96 * 64
HANGING = (sys.executable, "-c", "import time; time.sleep(60)")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mp4(tmp_path_factory.mktemp("film"))


def decoder(
    directory: Path, *, seconds: float = 20, all_pixels: int = 10**6, command: tuple[str, ...] = ()
) -> VideoDecoder:
    return VideoDecoder(
        directory,
        max_pixels=10**4,
        all_pixels=all_pixels,
        seconds=seconds,
        command=command or video.WORKER_COMMAND,
    )


@contextlib.contextmanager
def empty_after(directory: Path):
    yield directory
    assert not list(directory.iterdir())


@pytest.mark.parametrize("fps", [1.0, 2.0, 3.7, 8.0, 100.0])
@pytest.mark.parametrize(("least", "most"), [(2, 768), (5, 7), (12, 12)])
def test_the_frames_are_those_that_mlx_vlm_takes(film: Path, tmp_path: Path, fps: float, least: int, most: int) -> None:
    theirs, known = load_video(str(film), VideoSampling(fps=fps, min_frames=least, max_frames=most))
    choice = FrameChoice(fps=fps, min_frames=least, max_frames=most, factor=2)
    target = tmp_path / "frames"
    found = video_worker.decode(job(film, target, choice))
    assert (found.taken, found.total, found.fps) == (known.frames_indices, known.total_num_frames, known.fps)
    ours = np.fromfile(target, np.uint8).reshape(-1, found.height, found.width, 3)
    assert np.array_equal(ours.transpose(0, 3, 1, 2), theirs)


def job(path: Path, target: Path, choice: FrameChoice, *, max_pixels: int = 10**4, all_pixels: int = 10**6) -> VideoJob:
    return VideoJob(
        path=str(path),
        target=str(target),
        choice=choice,
        max_pixels=max_pixels,
        all_pixels=all_pixels,
        memory=2**30,
        seconds=20,
    )


def test_what_all_frames_may_have_together_makes_them_fewer(film: Path, tmp_path: Path) -> None:
    found = video_worker.decode(job(film, tmp_path / "frames", WHOLE, all_pixels=7 * PIXELS))
    assert found.taken == [0, 3, 6, 9, 12, 15]
    assert (tmp_path / "frames").stat().st_size == 6 * PIXELS * 3


def test_frames_are_measured_before_they_are_decoded(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_worker, "_frames", lambda *_: pytest.fail("it is too large"))
    with pytest.raises(ValueError, match="its frames have 96 x 64 pixels: none, or more than 6143"):
        video_worker.decode(job(film, tmp_path / "frames", WHOLE, max_pixels=PIXELS - 1))


def test_what_its_header_says_of_its_frames_must_hold(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_worker, "_header", lambda _: (90, 64, 16, 8.0))
    with pytest.raises(ValueError, match="not of the size that its header says"):
        video_worker.decode(job(film, tmp_path / "frames", WHOLE))
    monkeypatch.setattr(video_worker, "_header", lambda _: (96, 64, 1, 8.0))
    with pytest.raises(ValueError, match="too few frames: 1"):
        video_worker.decode(job(film, tmp_path / "frames", WHOLE))


def test_the_frames_are_there_until_the_block_ends(film: Path, tmp_path: Path) -> None:
    with empty_after(tmp_path), decoder(tmp_path).decoded(1, film.read_bytes(), WHOLE) as (frames, found):
        assert frames.shape == (16, 3, 64, 96)
        assert found.taken == list(range(16))


def test_what_is_no_video_is_told(tmp_path: Path) -> None:
    with (
        empty_after(tmp_path),
        pytest.raises(ValueError, match="cannot be decoded"),
        decoder(tmp_path).decoded(1, b"no video", WHOLE),
    ):
        pass


def test_one_that_takes_too_long_is_killed(film: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    with (
        empty_after(tmp_path),
        pytest.raises(ValueError, match=r"decoding it takes longer than 0\.2 seconds"),
        decoder(tmp_path, seconds=0.2, command=HANGING).decoded(1, film.read_bytes(), WHOLE),
    ):
        pass
    assert time.monotonic() - started < 5


def test_one_that_takes_too_much_memory_ends(film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "BASE_MEMORY", 2**24)
    monkeypatch.setattr(video, "PIXEL_MEMORY", 0)
    with empty_after(tmp_path), pytest.raises(ValueError), decoder(tmp_path).decoded(1, film.read_bytes(), WHOLE):
        pass


def test_one_that_nobody_waits_for_ends(film: Path, tmp_path: Path) -> None:
    hanging = decoder(tmp_path, command=HANGING)
    threading.Timer(0.2, hanging.stop, [2]).start()  # another one's
    threading.Timer(0.4, hanging.stop, [1]).start()
    started = time.monotonic()
    with (
        empty_after(tmp_path),
        pytest.raises(ValueError, match="without a word"),
        hanging.decoded(1, film.read_bytes(), WHOLE),
    ):
        pass
    assert 0.4 <= time.monotonic() - started < 5
