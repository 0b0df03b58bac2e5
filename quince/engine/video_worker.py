"""Decodes one video, in a process of its own: run as ``python -m quince.engine.video_worker``.

Standard input carries one VideoJob as a line of JSON and then stays open: when it ends, nobody waits any more. Standard
output gets one VideoAnswer.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from quince.engine.video import FrameChoice, NoVideo, VideoAnswer, VideoFrames, VideoJob

THREADS = 2  # of the decoder: each holds frames of its own


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=VideoJob)
    threading.Thread(target=_exit_with_parent, name="parent-watch", daemon=True).start()
    _bound(job)
    sys.stdout.buffer.write(msgspec.json.encode(_answer(job)))
    sys.stdout.flush()


def _exit_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(1)


def _bound(job: VideoJob) -> None:
    """Both hold inside a decoder's own code, too. Darwin does not know the first."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (job.memory, job.memory))
    signal.setitimer(signal.ITIMER_REAL, job.seconds + 1)


def _answer(job: VideoJob) -> VideoAnswer:
    try:
        return decode(job)
    except Exception as error:  # noqa: BLE001 - the boundary: decoders raise whatever comes to their minds
        return NoVideo(str(error) or type(error).__name__)


def decode(job: VideoJob) -> VideoFrames:
    """Raises ValueError for what is no video, or too large by its header."""
    with _opened(job.path) as video:
        width, height, total, fps = _header(video)
        if not 0 < width * height <= job.max_pixels:
            raise ValueError(f"its frames have {width} x {height} pixels: none, or more than {job.max_pixels}")
        taken = chosen(job.choice, total, fps, most=job.all_pixels // (width * height))
        with open(job.target, "wb") as file:
            count = 0
            for frame in _frames(video, taken):
                if frame.shape != (height, width, 3):
                    raise ValueError("its frames are not of the size that its header says")
                file.write(frame.data)
                count += 1
    if count == 0:
        raise ValueError("the video cannot be decoded: it has no frames")
    return VideoFrames(taken=taken[:count], total=total, fps=fps, width=width, height=height)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Any]:
    try:
        import cv2
    except ImportError:
        raise ValueError("videos need OpenCV, which is not installed here") from None
    video = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, THREADS])
    try:
        if not video.isOpened():
            raise ValueError("the video cannot be decoded")
        yield video
    finally:
        video.release()


def _header(video: Any) -> tuple[int, int, int, float]:
    """Width and height of its frames, how many it has, and how many a second."""
    import cv2

    width, height, total = (
        int(video.get(name)) for name in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_COUNT)
    )
    return width, height, total, float(video.get(cv2.CAP_PROP_FPS)) or 1.0


def chosen(choice: FrameChoice, total: int, fps: float, *, most: int) -> list[int]:
    """The numbers of the frames to take of ``total``: what mlx-vlm would take of a file, but at most ``most``, however
    many it wants at least. Raises ValueError if that is none."""
    factor = choice.factor
    least = math.ceil(choice.min_frames / factor) * factor
    wanted = min(max(total / fps * choice.fps, least), choice.max_frames, total, most)
    count = math.floor(wanted / factor) * factor
    if count < factor:
        raise ValueError(f"the video has too few frames: {total}, by its header")
    return [int(number) for number in np.linspace(0, total - 1, count).round()]


def _frames(video: Any, numbers: list[int]) -> Iterator[np.ndarray[Any, Any]]:
    """[height, width, 3] in RGB, as far as the file goes."""
    import cv2

    for number in numbers:
        video.set(cv2.CAP_PROP_POS_FRAMES, number)
        found, frame = video.read()
        if not found:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


if __name__ == "__main__":
    main()
