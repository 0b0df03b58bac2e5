"""A preprocessor process without a model: each file says what is to become of it.

Run as ``python -m tests.engine.fake_preprocessor``. Files begin with a word: "good" is prepared, "slow" too, but only
after a while, "bad" is refused, "die" ends the process with last words, "hang" is never answered. With the model path
"broken" it cannot load.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from pathlib import Path

import msgspec
import numpy as np

from quince.engine.ipc import PreprocessorSocket
from quince.engine.media_messages import (
    Mark,
    MediaType,
    NotPrepared,
    Prepare,
    Prepared,
    PreprocessorConfig,
    PreprocessorReady,
)
from quince.engine.messages import LoadFailed, MediaArray

SLOW = 0.3  # seconds
NBYTES = 1000


def watch_parent(config: PreprocessorConfig) -> None:
    while sys.stdin.buffer.read(1):
        pass
    shutil.rmtree(config.directory, ignore_errors=True)
    os._exit(0)


def prepare(message: Prepare, directory: Path) -> Prepared | NotPrepared:
    if message.data.startswith(b"bad"):
        return NotPrepared(message.job, "it is bad, says the fake")
    path = directory / f"{message.job}.npy"
    np.save(path, np.frombuffer(message.data, dtype=np.uint8))
    if message.data.startswith(b"slow"):
        time.sleep(SLOW)
    if message.data.startswith(b"die"):
        print("out of memory, says the fake", file=sys.stderr, flush=True)
        os._exit(3)
    return Prepared(message.job, "MM", 2, [MediaArray("pixel_values", path=str(path))], NBYTES)


def main() -> None:
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=PreprocessorConfig)
    threading.Thread(target=watch_parent, args=[config], daemon=True).start()
    directory = Path(config.directory)
    directory.mkdir()
    with PreprocessorSocket(config.address) as socket:
        if config.model_path == "broken":
            socket.send(LoadFailed("broken: no such model"))
            sys.exit(1)
        socket.send(PreprocessorReady({MediaType.IMAGE: Mark("M", 7)}))
        while True:
            for message in socket.receive(wait=True):
                if isinstance(message, Prepare) and not message.data.startswith(b"hang"):
                    socket.send(prepare(message, directory))


if __name__ == "__main__":
    main()
