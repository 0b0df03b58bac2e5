"""The preprocessor process: decodes images and videos and runs the model's own processor on them.

It stands beside an engine, so that neither the engine's thread nor the API process decodes anything. Worker threads
do the work; the main thread owns the socket. It ends when its standard input ends, and leaves no file behind then.
"""

from __future__ import annotations

import collections
import faulthandler
import logging
import os
import shutil
import signal
import sys
import threading
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import msgspec

from quince.engine.ipc import PreprocessorSocket, remove_socket
from quince.engine.media_messages import (
    Cancel,
    MediaType,
    NotPrepared,
    Prepare,
    Prepared,
    PreprocessorConfig,
    PreprocessorReady,
)
from quince.engine.messages import LoadFailed
from quince.errors import ModelLoadError

logger = logging.getLogger("quince.preprocess")

WORKERS = 4 if (os.cpu_count() or 1) >= 8 else 2  # for images


def main() -> None:
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the API process's to handle
    logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stderr)
    # transformers warns of what matters to who trains: a tokenizer's limit, processors' older options.
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=PreprocessorConfig)
    threading.Thread(target=_exit_with_parent, args=[config], name="parent-watch", daemon=True).start()
    with PreprocessorSocket(config.address) as socket:
        try:
            preprocessor = Preprocessor(config, socket)
        except ModelLoadError as error:
            logger.error("%s", error)
            socket.send(LoadFailed(error.message))
            sys.exit(1)
        socket.send(preprocessor.ready)
        preprocessor.serve()


def _exit_with_parent(config: PreprocessorConfig) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    shutil.rmtree(config.directory, ignore_errors=True)
    remove_socket(config.address)
    os._exit(0)


class Preprocessor:
    """Loads the model's processor, then serves."""

    def __init__(self, config: PreprocessorConfig, socket: PreprocessorSocket) -> None:
        from quince.engine.processor import Processor  # mlx-vlm takes long to import

        Path(config.directory).mkdir(mode=0o700, exist_ok=True)
        self._processor = Processor(
            Path(config.model_path),
            Path(config.directory),
            max_pixels=config.max_pixels,
            video_seconds=config.video_seconds,
            processors=WORKERS + 1,
        )
        self.ready = PreprocessorReady(self._processor.marks)
        self._socket = socket
        # Images do not wait for videos, which take long.
        self._images = ThreadPoolExecutor(WORKERS, thread_name_prefix="images")
        self._videos = ThreadPoolExecutor(1, thread_name_prefix="videos")
        self._jobs: dict[int, Future[Prepared | NotPrepared]] = {}
        self._done: collections.deque[int] = collections.deque()

    def serve(self) -> NoReturn:
        """Run until standard input ends, which ends the process."""
        while True:
            for message in self._socket.receive(wait=True):
                match message:
                    case Prepare(job):
                        pool = self._videos if message.kind is MediaType.VIDEO else self._images
                        future = self._jobs[job] = pool.submit(self._prepare, message)
                        future.add_done_callback(lambda _, job=job: self._finish(job))  # type: ignore[misc]
                    case Cancel(job):
                        if job in self._jobs and self._jobs[job].cancel():
                            del self._jobs[job]
                        else:
                            self._processor.stop_video(job)
            self._send_done()

    def _finish(self, job: int) -> None:
        """On a worker thread: let the main thread send the result."""
        self._done.append(job)
        self._socket.wake()

    def _send_done(self) -> None:
        while self._done:
            future = self._jobs.pop(self._done.popleft(), None)
            if future is not None:
                self._socket.send(future.result())

    def _prepare(self, message: Prepare) -> Prepared | NotPrepared:
        try:
            return self._processor.prepare(message)
        except Exception as error:  # the boundary: decoders raise whatever comes to their minds
            logger.debug("a file could not be prepared", exc_info=True)
            return NotPrepared(message.job, str(error) or type(error).__name__)


if __name__ == "__main__":
    main()
