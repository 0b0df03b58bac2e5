"""Videos, decoded in a process of their own: one that takes too long, too much or dies ends with its video alone."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from quince import children

WORKER_COMMAND = children.command("quince.engine.video_worker")
# Bytes that the worker may take: what it needs anyhow, and for each pixel of a frame those that refer to each other.
BASE_MEMORY = 512 * 2**20
PIXEL_MEMORY = 48


class FrameChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Which frames are taken: ``fps`` of each second's, evenly, within these numbers and divisible by ``factor``."""

    fps: float
    min_frames: int
    max_frames: int
    factor: int


class VideoJob(msgspec.Struct, frozen=True, kw_only=True):
    """``path`` is the encoded file, ``target`` gets the pixels [frames, height, width, 3]. ``max_pixels`` bound
    a frame, ``all_pixels`` the frames together, by which fewer are taken. ``memory`` in bytes, ``seconds`` of time: the
    worker ends itself above them."""

    path: str
    target: str
    choice: FrameChoice
    max_pixels: int
    all_pixels: int
    memory: int
    seconds: float


class VideoFrames(msgspec.Struct, frozen=True, kw_only=True, tag="frames"):
    """What was taken: the numbers of the frames in the video, which has ``total`` of them, ``fps`` a second."""

    taken: list[int]
    total: int
    fps: float
    width: int
    height: int


class NoVideo(msgspec.Struct, frozen=True, tag="none"):
    """Why nothing was: in words for who has sent the file."""

    error: str


VideoAnswer = VideoFrames | NoVideo


class VideoDecoder:
    """Decodes one video at a time. ``stop`` may be called from other threads."""

    def __init__(
        self,
        directory: Path,
        *,
        max_pixels: int,
        all_pixels: int,
        seconds: float,
        command: Sequence[str] = WORKER_COMMAND,
    ) -> None:
        """``directory`` is for files while they are needed. See VideoJob for the bounds."""
        self._directory = directory
        self._max_pixels = max_pixels
        self._all_pixels = all_pixels
        self._seconds = seconds
        self._command = command
        self._running: tuple[int, subprocess.Popen[bytes]] | None = None

    @contextlib.contextmanager
    def decoded(
        self, number: int, data: bytes, choice: FrameChoice
    ) -> Iterator[tuple[npt.NDArray[np.uint8], VideoFrames]]:
        """The frames [frames, 3, height, width] that are taken of an encoded file, until the block ends. ``number`` is
        for ``stop``. Raises ValueError."""
        with self._file(data) as path, self._file(b"") as target:
            job = VideoJob(
                path=path,
                target=target,
                choice=choice,
                max_pixels=self._max_pixels,
                all_pixels=self._all_pixels,
                memory=BASE_MEMORY + PIXEL_MEMORY * self._max_pixels,
                seconds=self._seconds,
            )
            found = _frames(self._run(number, job))
            shape = (len(found.taken), found.height, found.width, 3)
            yield np.memmap(target, np.uint8, "r", shape=shape).transpose(0, 3, 1, 2), found

    def stop(self, number: int) -> None:
        """If it is this video that is being decoded, end that: it is refused."""
        running = self._running
        if running is not None and running[0] == number:
            running[1].kill()

    @contextlib.contextmanager
    def _file(self, data: bytes) -> Iterator[str]:
        handle, path = tempfile.mkstemp(dir=self._directory)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            yield path
        finally:
            os.unlink(path)

    def _run(self, number: int, job: VideoJob) -> bytes:
        """What the worker says, which is nothing if it is killed."""
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders tell there what they think of a file
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(job.seconds, end)
        assert process.stdin is not None and process.stdout is not None
        self._running = (number, process)
        timer.start()
        told = b""
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin:  # left open: the worker ends when it does
                process.stdin.write(msgspec.json.encode(job) + b"\n")
                process.stdin.flush()
                told = process.stdout.read()
        finally:
            self._running = None
            timer.cancel()
            process.kill()
            process.stdout.close()
            process.wait()
        if late.is_set():
            raise ValueError(f"decoding it takes longer than {job.seconds:g} seconds")
        return told


def _frames(told: bytes) -> VideoFrames:
    try:
        answer: VideoAnswer = msgspec.json.decode(told, type=VideoAnswer)
    except msgspec.DecodeError:  # it ended before: the decoder crashed, ran out of memory, or was stopped
        raise ValueError("the video cannot be decoded: its decoder ended without a word") from None
    if isinstance(answer, NoVideo):
        raise ValueError(answer.error)
    return answer
